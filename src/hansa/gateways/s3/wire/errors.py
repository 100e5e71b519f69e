"""What S3 says when it says no: every code of ours with its status and its words.

`S3Error.of("NoSuchKey", Key=key)` is the one way to refuse. The code, not the class, is what clients read, so there
is one class and a table. `extras` become elements of the body beside Code and Message, in the order given; headers
that belong to an answer (Allow, Content-Range, x-amz-bucket-region) go into `headers`. The body's XML is `xml.py`'s.
"""

from __future__ import annotations

from collections.abc import Mapping

from hansa.errors import HansaError

# code → (status, what the user is told). The words are ours; the codes and the status are the protocol's.
CODES: dict[str, tuple[int, str]] = {
    "AccessControlListNotSupported": (400, "The bucket does not allow access control lists."),
    "AccessDenied": (403, "Access denied."),
    "AccessForbidden": (403, "No CORS rule of this bucket allows the request."),
    "AuthorizationHeaderMalformed": (400, "The Authorization header cannot be read."),
    "AuthorizationQueryParametersError": (400, "The signature's query parameters cannot be read."),
    "BadDigest": (400, "The content does not have the digest that was sent with it."),
    "BadRequest": (400, "The request breaks a rule of the protocol."),
    "BucketAlreadyExists": (409, "The name of this bucket is taken; names are shared by all tenants."),
    "BucketAlreadyOwnedByYou": (409, "You own this bucket already."),
    "BucketNotEmpty": (409, "The bucket is not empty."),
    "ConditionalRequestConflict": (409, "Another write came between the condition and this one; try again."),
    "EntityTooLarge": (400, "The object is larger than the largest allowed."),
    "EntityTooSmall": (400, "A part other than the last is smaller than the smallest allowed."),
    "IllegalVersioningConfigurationException": (400, "The versioning configuration is not valid."),
    "IncompleteBody": (400, "The body is shorter than announced."),
    "InsufficientStorage": (507, "There is no space left for this object."),
    "InternalError": (500, "Something went wrong on our side; try again."),
    "InvalidAccessKeyId": (403, "There is no such access key."),
    "InvalidArgument": (400, "An argument is not valid."),
    "InvalidBucketAclWithObjectOwnership": (400, "The bucket's ACL and its object ownership do not go together."),
    "InvalidBucketName": (400, "This is no valid name of a bucket."),
    "InvalidBucketState": (409, "The bucket's state does not allow this."),
    "InvalidChunkSizeError": (403, "Only the last chunk may have less than 8192 bytes."),
    "InvalidDigest": (400, "The Content-MD5 is no valid digest."),
    "InvalidEncryptionAlgorithmError": (400, "The encryption algorithm is not supported; AES256 and aws:kms are."),
    "InvalidLocationConstraint": (400, "There is no such location."),
    "InvalidPart": (400, "A part is missing, or its ETag is another."),
    "InvalidPartOrder": (400, "The parts are not listed in ascending order."),
    "InvalidPolicyDocument": (400, "The form's policy cannot be read."),
    "InvalidRange": (416, "The range lies outside of the object."),
    "InvalidRedirectLocation": (400, "The redirect must begin with /, http:// or https://."),
    "InvalidRequest": (400, "The request is not valid."),
    "InvalidRetentionPeriod": (400, "The retention period is too short or too long."),
    "InvalidStorageClass": (400, "There is no such storage class."),
    "InvalidTag": (400, "A tag is not valid."),
    "InvalidToken": (400, "The token is not valid."),
    "InvalidURI": (400, "The path cannot be read."),
    "KeyTooLongError": (400, "The key is too long; 1024 bytes are allowed."),
    "KMS.DisabledException": (400, "The encryption key is disabled."),
    "KMS.NotFoundException": (400, "There is no such encryption key."),
    "MalformedACLError": (400, "The access control list does not fit its schema."),
    "MalformedPOSTRequest": (400, "The form is no well-formed multipart/form-data."),
    "MalformedPolicy": (400, "The policy is not valid."),
    "MalformedXML": (400, "The XML is not well formed or does not fit its schema."),
    "MalformedTrailerError": (400, "The trailers after the body cannot be read."),
    "MaxMessageLengthExceeded": (400, "The request's body is too long."),
    "MaxPostPreDataLengthExceededError": (400, "The form's fields before the file are too long."),
    "MetadataTooLarge": (400, "The metadata is too long; 2 KiB are allowed."),
    "MethodNotAllowed": (405, "The method is not allowed on this resource."),
    "MissingContentLength": (411, "The Content-Length header is due."),
    "MissingSecurityHeader": (400, "A header that the request needs is missing."),
    "MissingRequestBodyError": (400, "The request's body is empty."),
    "NoSuchBucket": (404, "There is no such bucket."),
    "NoSuchBucketPolicy": (404, "The bucket has no policy."),
    "NoSuchConfiguration": (404, "There is no such configuration."),
    "NoSuchCORSConfiguration": (404, "The bucket has no CORS configuration."),
    "NoSuchKey": (404, "There is no such key."),
    "NoSuchLifecycleConfiguration": (404, "The bucket has no lifecycle configuration."),
    "NoSuchObjectLockConfiguration": (404, "The object has no lock."),
    "NoSuchPublicAccessBlockConfiguration": (404, "The bucket has no public access block."),
    "NoSuchTagSet": (404, "There are no tags."),
    "NoSuchUpload": (404, "There is no such upload; it may have been completed or aborted."),
    "NoSuchVersion": (404, "There is no such version."),
    "NoSuchWebsiteConfiguration": (404, "The bucket has no website configuration."),
    "NotImplemented": (501, "This is not supported here."),
    "NotModified": (304, "Not modified."),
    "ObjectLockConfigurationNotFoundError": (404, "The bucket has no object lock configuration."),
    "OperationAborted": (409, "Another operation on this resource is under way; try again."),
    "OwnershipControlsNotFoundError": (404, "The bucket has no ownership controls."),
    "PreconditionFailed": (412, "A condition of the request does not hold."),
    "QuotaExceeded": (403, "The project holds as much as it may hold."),
    "ReplicationConfigurationNotFoundError": (404, "The bucket has no replication configuration."),
    "RequestHeaderSectionTooLarge": (400, "The request's head is too long."),
    "RequestTimeout": (400, "The body did not arrive in time."),
    "RequestTimeTooSkewed": (403, "The request's time is too far from ours."),
    "ServerSideEncryptionConfigurationNotFoundError": (404, "The bucket has no encryption configuration."),
    "ServiceUnavailable": (503, "Not now; try again."),
    "SignatureDoesNotMatch": (403, "The signature is not the one we compute; check the secret and how you sign."),
    "SlowDown": (503, "Too many requests; slow down."),
    "TooManyBuckets": (400, "You have as many buckets as you may have."),
    "UnexpectedContent": (400, "The request has a body that does not go with its headers."),
    "UnresolvableGrantByEmailAddress": (400, "There is nobody with this e-mail address."),
    "XAmzContentSHA256Mismatch": (400, "The body does not have the SHA-256 that was signed."),
}


class S3Error(HansaError):
    """A refusal in the protocol's own words. `status` and the default message come from the table.

    `extras`: elements of the body; `headers`: header fields of the answer.
    """

    def __init__(
        self,
        code: str,
        message: str = "",
        *,
        detail: str = "",
        extras: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        status, words = CODES[code]
        super().__init__(message or words, detail=detail)
        self.code = code
        self.reason = code
        self.status = status
        self.extras: dict[str, str] = dict(extras or {})
        self.headers: dict[str, str] = dict(headers or {})

    @classmethod
    def of(cls, code: str, message: str = "", /, **extras: str | int) -> S3Error:
        """The code's error; each keyword becomes an element of the body: `of("NoSuchKey", Key="a/b")`.

        Raises KeyError for a code that is not in the table: a slip of ours, never of a client.
        """
        return cls(code, message, extras={name: str(value) for name, value in extras.items()})

    @classmethod
    def argument(cls, name: str, value: str, rule: str) -> S3Error:
        """InvalidArgument that names the argument and its rule. The value is echoed, so never pass a secret."""
        return cls("InvalidArgument", f"{name}: {rule}", extras={"ArgumentName": name, "ArgumentValue": value[:256]})

    def with_headers(self, headers: Mapping[str, str]) -> S3Error:
        """The same error, its answer carrying `headers` too."""
        self.headers.update(headers)
        return self
