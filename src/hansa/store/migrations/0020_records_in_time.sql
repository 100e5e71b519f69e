-- The audit is read by time, newest first, over all it speaks of.

create index records_in_time on records (stream, at, id);
