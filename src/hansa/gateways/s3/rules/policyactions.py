"""The actions that a bucket policy may name: those of S3, in lower case. A list of facts; what each guards is elsewhere.

An action that this cloud does not serve may stand in a policy all the same, so that policies written elsewhere can be
brought along; it never comes up.

Source: AWS, Service Authorization Reference, "Actions, resources, and condition keys for Amazon S3".
"""

from __future__ import annotations

_ON_BUCKETS = """
    createbucket deletebucket deletebucketownershipcontrols deletebucketpolicy deletebucketwebsite
    getaccelerateconfiguration getanalyticsconfiguration getbucketabac getbucketacl getbucketcors getbucketlocation
    getbucketlogging getbucketmetadatatableconfiguration getbucketnotification getbucketobjectlockconfiguration
    getbucketownershipcontrols getbucketpolicy getbucketpolicystatus getbucketpublicaccessblock getbucketrequestpayment
    getbuckettagging getbucketversioning getbucketwebsite getencryptionconfiguration
    getintelligenttieringconfiguration getinventoryconfiguration getlifecycleconfiguration getmetricsconfiguration
    getreplicationconfiguration listallmybuckets listbucket listbucketmultipartuploads listbucketversions
    putaccelerateconfiguration putanalyticsconfiguration putbucketacl putbucketcors putbucketlogging
    putbucketnotification putbucketobjectlockconfiguration putbucketownershipcontrols putbucketpolicy
    putbucketpublicaccessblock putbucketrequestpayment putbuckettagging putbucketversioning putbucketwebsite
    putencryptionconfiguration putintelligenttieringconfiguration putinventoryconfiguration putlifecycleconfiguration
    putmetricsconfiguration putreplicationconfiguration tagresource untagresource listtagsforresource
"""
_ON_OBJECTS = """
    abortmultipartupload bypassgovernanceretention deleteobject deleteobjecttagging deleteobjectversion
    deleteobjectversiontagging getobject getobjectacl getobjectattributes getobjectlegalhold getobjectretention
    getobjecttagging getobjecttorrent getobjectversion getobjectversionacl getobjectversionattributes
    getobjectversionforreplication getobjectversiontagging getobjectversiontorrent initiatereplication
    listmultipartuploadparts objectowneroverridetobucketowner putobject putobjectacl putobjectlegalhold
    putobjectretention putobjecttagging putobjectversionacl putobjectversiontagging replicatedelete replicateobject
    replicatetags restoreobject updateobjectencryption
"""

ACTIONS = tuple(f"s3:{name}" for name in (_ON_BUCKETS + _ON_OBJECTS).split())
