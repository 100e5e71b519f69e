-- Records are read by time: the audit newest first, streams in order and in pages.

create index records_in_time on records (stream, at, id);
