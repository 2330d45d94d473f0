//! Enumerations (KMIP 1.4 section 9.1.3.2, KMIP 2.1 section 11).

use super::names;
use crate::ProtocolVersion;

names! {
    /// Whether an answer may come later (KMIP 2.0; a truth value before).
    ///
    /// KMIP 2.1 section 11.2.
    pub struct AsynchronousIndicator {
        MANDATORY = 0x00000001, "Mandatory", V2_0;
        OPTIONAL = 0x00000002, "Optional", V2_0;
        PROHIBITED = 0x00000003, "Prohibited", V2_0;
    }
}

names! {
    /// What a server does with the rest of a batch after an item of it has failed.
    ///
    /// KMIP 1.4 section 9.1.3.2.30.
    pub struct BatchErrorContinuationOption {
        CONTINUE = 0x00000001, "Continue", V1_0;
        STOP = 0x00000002, "Stop", V1_0;
        UNDO = 0x00000003, "Undo", V1_0;
    }
}

names! {
    /// How a block cipher is used on more than a block.
    ///
    /// KMIP 1.4 section 9.1.3.2.14.
    pub struct BlockCipherMode {
        CBC = 0x00000001, "CBC", V1_0;
        ECB = 0x00000002, "ECB", V1_0;
        PCBC = 0x00000003, "PCBC", V1_0;
        CFB = 0x00000004, "CFB", V1_0;
        OFB = 0x00000005, "OFB", V1_0;
        CTR = 0x00000006, "CTR", V1_0;
        CMAC = 0x00000007, "CMAC", V1_0;
        CCM = 0x00000008, "CCM", V1_0;
        GCM = 0x00000009, "GCM", V1_0;
        CBC_MAC = 0x0000000a, "CBC-MAC", V1_0;
        XTS = 0x0000000b, "XTS", V1_0;
        AES_KEY_WRAP_PADDING = 0x0000000c, "AESKeyWrapPadding", V1_0;
        NIST_KEY_WRAP = 0x0000000d, "NISTKeyWrap", V1_0;
        X9_102_AESKW = 0x0000000e, "X9.102 AESKW", V1_0;
        X9_102_TDKW = 0x0000000f, "X9.102 TDKW", V1_0;
        X9_102_AKW1 = 0x00000010, "X9.102 AKW1", V1_0;
        X9_102_AKW2 = 0x00000011, "X9.102 AKW2", V1_0;
        AEAD = 0x00000012, "AEAD", V1_4;
    }
}

names! {
    /// Algorithm a key is for.
    ///
    /// KMIP 1.4 section 9.1.3.2.13.
    pub struct CryptographicAlgorithm {
        DES = 0x00000001, "DES", V1_0;
        TRIPLE_DES = 0x00000002, "3DES", V1_0;
        AES = 0x00000003, "AES", V1_0;
        RSA = 0x00000004, "RSA", V1_0;
        DSA = 0x00000005, "DSA", V1_0;
        ECDSA = 0x00000006, "ECDSA", V1_0;
        HMAC_SHA1 = 0x00000007, "HMAC-SHA1", V1_0;
        HMAC_SHA224 = 0x00000008, "HMAC-SHA224", V1_0;
        HMAC_SHA256 = 0x00000009, "HMAC-SHA256", V1_0;
        HMAC_SHA384 = 0x0000000a, "HMAC-SHA384", V1_0;
        HMAC_SHA512 = 0x0000000b, "HMAC-SHA512", V1_0;
        HMAC_MD5 = 0x0000000c, "HMAC-MD5", V1_0;
        DH = 0x0000000d, "DH", V1_0;
        ECDH = 0x0000000e, "ECDH", V1_0;
        ECMQV = 0x0000000f, "ECMQV", V1_0;
        BLOWFISH = 0x00000010, "Blowfish", V1_0;
        CAMELLIA = 0x00000011, "Camellia", V1_0;
        CAST5 = 0x00000012, "Cast5", V1_0;
        IDEA = 0x00000013, "IDEA", V1_0;
        MARS = 0x00000014, "MARS", V1_0;
        RC2 = 0x00000015, "RC2", V1_0;
        RC4 = 0x00000016, "RC4", V1_0;
        RC5 = 0x00000017, "RC5", V1_0;
        SKIPJACK = 0x00000018, "SKIPJACK", V1_0;
        TWOFISH = 0x00000019, "Twofish", V1_0;
        EC = 0x0000001a, "EC", V1_2;
        ONE_TIME_PAD = 0x0000001b, "One Time Pad", V1_3;
        CHACHA20 = 0x0000001c, "ChaCha20", V1_4;
        POLY1305 = 0x0000001d, "Poly1305", V1_4;
        CHACHA20_POLY1305 = 0x0000001e, "ChaCha20Poly1305", V1_4;
        SHA3_224 = 0x0000001f, "SHA3-224", V1_4;
        SHA3_256 = 0x00000020, "SHA3-256", V1_4;
        SHA3_384 = 0x00000021, "SHA3-384", V1_4;
        SHA3_512 = 0x00000022, "SHA3-512", V1_4;
        HMAC_SHA3_224 = 0x00000023, "HMAC-SHA3-224", V1_4;
        HMAC_SHA3_256 = 0x00000024, "HMAC-SHA3-256", V1_4;
        HMAC_SHA3_384 = 0x00000025, "HMAC-SHA3-384", V1_4;
        HMAC_SHA3_512 = 0x00000026, "HMAC-SHA3-512", V1_4;
        SHAKE_128 = 0x00000027, "SHAKE-128", V1_4;
        SHAKE_256 = 0x00000028, "SHAKE-256", V1_4;
        ARIA = 0x00000029, "ARIA", V2_0;
        SEED = 0x0000002a, "SEED", V2_0;
        SM2 = 0x0000002b, "SM2", V2_0;
        SM3 = 0x0000002c, "SM3", V2_0;
        SM4 = 0x0000002d, "SM4", V2_0;
        GOST_R_34_10_2012 = 0x0000002e, "GOST R 34.10-2012", V2_0;
        GOST_R_34_11_2012 = 0x0000002f, "GOST R 34.11-2012", V2_0;
        GOST_R_34_13_2015 = 0x00000030, "GOST R 34.13-2015", V2_0;
        GOST_28147_89 = 0x00000031, "GOST 28147-89", V2_0;
        XMSS = 0x00000032, "XMSS", V2_0;
        SPHINCS_256 = 0x00000033, "SPHINCS-256", V2_0;
        MCELIECE = 0x00000034, "McEliece", V2_0;
        MCELIECE_6960119 = 0x00000035, "McEliece-6960119", V2_0;
        MCELIECE_8192128 = 0x00000036, "McEliece-8192128", V2_0;
        ED25519 = 0x00000037, "Ed25519", V2_0;
        ED448 = 0x00000038, "Ed448", V2_0;
    }
}

names! {
    /// Hash function.
    ///
    /// KMIP 1.4 section 9.1.3.2.16.
    pub struct HashingAlgorithm {
        MD2 = 0x00000001, "MD2", V1_0;
        MD4 = 0x00000002, "MD4", V1_0;
        MD5 = 0x00000003, "MD5", V1_0;
        SHA_1 = 0x00000004, "SHA-1", V1_0;
        SHA_224 = 0x00000005, "SHA-224", V1_0;
        SHA_256 = 0x00000006, "SHA-256", V1_0;
        SHA_384 = 0x00000007, "SHA-384", V1_0;
        SHA_512 = 0x00000008, "SHA-512", V1_0;
        RIPEMD_160 = 0x00000009, "RIPEMD-160", V1_0;
        TIGER = 0x0000000a, "Tiger", V1_0;
        WHIRLPOOL = 0x0000000b, "Whirlpool", V1_0;
        SHA_512_224 = 0x0000000c, "SHA-512/224", V1_2;
        SHA_512_256 = 0x0000000d, "SHA-512/256", V1_2;
        SHA3_224 = 0x0000000e, "SHA3-224", V1_4;
        SHA3_256 = 0x0000000f, "SHA3-256", V1_4;
        SHA3_384 = 0x00000010, "SHA3-384", V1_4;
        SHA3_512 = 0x00000011, "SHA3-512", V1_4;
    }
}

names! {
    /// How key material is laid out.
    ///
    /// KMIP 1.4 section 9.1.3.2.3.
    pub struct KeyFormatType {
        RAW = 0x00000001, "Raw", V1_0;
        OPAQUE = 0x00000002, "Opaque", V1_0;
        PKCS_1 = 0x00000003, "PKCS#1", V1_0;
        PKCS_8 = 0x00000004, "PKCS#8", V1_0;
        X_509 = 0x00000005, "X.509", V1_0;
        EC_PRIVATE_KEY = 0x00000006, "ECPrivateKey", V1_0;
        TRANSPARENT_SYMMETRIC_KEY = 0x00000007, "Transparent Symmetric Key", V1_0;
        TRANSPARENT_DSA_PRIVATE_KEY = 0x00000008, "Transparent DSA Private Key", V1_0;
        TRANSPARENT_DSA_PUBLIC_KEY = 0x00000009, "Transparent DSA Public Key", V1_0;
        TRANSPARENT_RSA_PRIVATE_KEY = 0x0000000a, "Transparent RSA Private Key", V1_0;
        TRANSPARENT_RSA_PUBLIC_KEY = 0x0000000b, "Transparent RSA Public Key", V1_0;
        TRANSPARENT_DH_PRIVATE_KEY = 0x0000000c, "Transparent DH Private Key", V1_0;
        TRANSPARENT_DH_PUBLIC_KEY = 0x0000000d, "Transparent DH Public Key", V1_0;
        TRANSPARENT_ECDSA_PRIVATE_KEY = 0x0000000e, "Transparent ECDSA Private Key", V1_0;
        TRANSPARENT_ECDSA_PUBLIC_KEY = 0x0000000f, "Transparent ECDSA Public Key", V1_0;
        TRANSPARENT_ECDH_PRIVATE_KEY = 0x00000010, "Transparent ECDH Private Key", V1_0;
        TRANSPARENT_ECDH_PUBLIC_KEY = 0x00000011, "Transparent ECDH Public Key", V1_0;
        TRANSPARENT_ECMQV_PRIVATE_KEY = 0x00000012, "Transparent ECMQV Private Key", V1_0;
        TRANSPARENT_ECMQV_PUBLIC_KEY = 0x00000013, "Transparent ECMQV Public Key", V1_0;
        TRANSPARENT_EC_PRIVATE_KEY = 0x00000014, "Transparent EC Private Key", V1_3;
        TRANSPARENT_EC_PUBLIC_KEY = 0x00000015, "Transparent EC Public Key", V1_3;
        PKCS_12 = 0x00000016, "PKCS#12", V1_4;
        PKCS_10 = 0x00000017, "PKCS#10", V2_1;
    }
}

names! {
    /// How two objects belong together.
    ///
    /// KMIP 1.4 section 9.1.3.2.20.
    pub struct LinkType {
        CERTIFICATE_LINK = 0x00000101, "Certificate Link", V1_0;
        PUBLIC_KEY_LINK = 0x00000102, "Public Key Link", V1_0;
        PRIVATE_KEY_LINK = 0x00000103, "Private Key Link", V1_0;
        DERIVATION_BASE_OBJECT_LINK = 0x00000104, "Derivation Base Object Link", V1_0;
        DERIVED_KEY_LINK = 0x00000105, "Derived Key Link", V1_0;
        REPLACEMENT_OBJECT_LINK = 0x00000106, "Replacement Object Link", V1_0;
        REPLACED_OBJECT_LINK = 0x00000107, "Replaced Object Link", V1_0;
        PARENT_LINK = 0x00000108, "Parent Link", V1_2;
        CHILD_LINK = 0x00000109, "Child Link", V1_2;
        PREVIOUS_LINK = 0x0000010a, "Previous Link", V1_2;
        NEXT_LINK = 0x0000010b, "Next Link", V1_2;
        PKCS_12_CERTIFICATE_LINK = 0x0000010c, "PKCS#12 Certificate Link", V1_4;
        PKCS_12_PASSWORD_LINK = 0x0000010d, "PKCS#12 Password Link", V1_4;
        WRAPPING_KEY_LINK = 0x0000010e, "Wrapping Key Link", V2_0;
    }
}

names! {
    /// What a name is: text, or a URI.
    ///
    /// KMIP 1.4 section 9.1.3.2.11.
    pub struct NameType {
        UNINTERPRETED_TEXT_STRING = 0x00000001, "Uninterpreted Text String", V1_0;
        URI = 0x00000002, "URI", V1_0;
    }
}

names! {
    /// Which member of an object group is meant.
    ///
    /// KMIP 1.4 section 9.1.3.2.33.
    pub struct ObjectGroupMember {
        GROUP_MEMBER_FRESH = 0x00000001, "Group Member Fresh", V1_1;
        GROUP_MEMBER_DEFAULT = 0x00000002, "Group Member Default", V1_1;
    }
}

names! {
    /// What kind of object.
    ///
    /// KMIP 1.4 section 9.1.3.2.12.
    pub struct ObjectType {
        CERTIFICATE = 0x00000001, "Certificate", V1_0;
        SYMMETRIC_KEY = 0x00000002, "Symmetric Key", V1_0;
        PUBLIC_KEY = 0x00000003, "Public Key", V1_0;
        PRIVATE_KEY = 0x00000004, "Private Key", V1_0;
        SPLIT_KEY = 0x00000005, "Split Key", V1_0;
        TEMPLATE = 0x00000006, "Template", V1_0;
        SECRET_DATA = 0x00000007, "Secret Data", V1_0;
        OPAQUE_DATA = 0x00000008, "Opaque Data", V1_0;
        PGP_KEY = 0x00000009, "PGP Key", V1_2;
        CERTIFICATE_REQUEST = 0x0000000a, "Certificate Request", V2_0;
    }
}

names! {
    /// What is asked for.
    ///
    /// KMIP 1.4 section 9.1.3.2.27.
    pub struct Operation {
        CREATE = 0x00000001, "Create", V1_0;
        CREATE_KEY_PAIR = 0x00000002, "Create Key Pair", V1_0;
        REGISTER = 0x00000003, "Register", V1_0;
        REKEY = 0x00000004, "Re-key", V1_0;
        DERIVE_KEY = 0x00000005, "Derive Key", V1_0;
        CERTIFY = 0x00000006, "Certify", V1_0;
        RECERTIFY = 0x00000007, "Re-certify", V1_0;
        LOCATE = 0x00000008, "Locate", V1_0;
        CHECK = 0x00000009, "Check", V1_0;
        GET = 0x0000000a, "Get", V1_0;
        GET_ATTRIBUTES = 0x0000000b, "Get Attributes", V1_0;
        GET_ATTRIBUTE_LIST = 0x0000000c, "Get Attribute List", V1_0;
        ADD_ATTRIBUTE = 0x0000000d, "Add Attribute", V1_0;
        MODIFY_ATTRIBUTE = 0x0000000e, "Modify Attribute", V1_0;
        DELETE_ATTRIBUTE = 0x0000000f, "Delete Attribute", V1_0;
        OBTAIN_LEASE = 0x00000010, "Obtain Lease", V1_0;
        GET_USAGE_ALLOCATION = 0x00000011, "Get Usage Allocation", V1_0;
        ACTIVATE = 0x00000012, "Activate", V1_0;
        REVOKE = 0x00000013, "Revoke", V1_0;
        DESTROY = 0x00000014, "Destroy", V1_0;
        ARCHIVE = 0x00000015, "Archive", V1_0;
        RECOVER = 0x00000016, "Recover", V1_0;
        VALIDATE = 0x00000017, "Validate", V1_0;
        QUERY = 0x00000018, "Query", V1_0;
        CANCEL = 0x00000019, "Cancel", V1_0;
        POLL = 0x0000001a, "Poll", V1_0;
        NOTIFY = 0x0000001b, "Notify", V1_0;
        PUT = 0x0000001c, "Put", V1_0;
        REKEY_KEY_PAIR = 0x0000001d, "Re-key Key Pair", V1_1;
        DISCOVER_VERSIONS = 0x0000001e, "Discover Versions", V1_1;
        ENCRYPT = 0x0000001f, "Encrypt", V1_2;
        DECRYPT = 0x00000020, "Decrypt", V1_2;
        SIGN = 0x00000021, "Sign", V1_2;
        SIGNATURE_VERIFY = 0x00000022, "Signature Verify", V1_2;
        MAC = 0x00000023, "MAC", V1_2;
        MAC_VERIFY = 0x00000024, "MAC Verify", V1_2;
        RNG_RETRIEVE = 0x00000025, "RNG Retrieve", V1_2;
        RNG_SEED = 0x00000026, "RNG Seed", V1_2;
        HASH = 0x00000027, "Hash", V1_2;
        CREATE_SPLIT_KEY = 0x00000028, "Create Split Key", V1_2;
        JOIN_SPLIT_KEY = 0x00000029, "Join Split Key", V1_2;
        IMPORT = 0x0000002a, "Import", V1_4;
        EXPORT = 0x0000002b, "Export", V1_4;
        LOG = 0x0000002c, "Log", V2_0;
        LOGIN = 0x0000002d, "Login", V2_0;
        LOGOUT = 0x0000002e, "Logout", V2_0;
        DELEGATED_LOGIN = 0x0000002f, "Delegated Login", V2_0;
        ADJUST_ATTRIBUTE = 0x00000030, "Adjust Attribute", V2_0;
        SET_ATTRIBUTE = 0x00000031, "Set Attribute", V2_0;
        SET_ENDPOINT_ROLE = 0x00000032, "Set Endpoint Role", V2_0;
        PKCS_11 = 0x00000033, "PKCS#11", V2_0;
        INTEROP = 0x00000034, "Interop", V2_0;
        RE_PROVISION = 0x00000035, "Re-Provision", V2_0;
        SET_DEFAULTS = 0x00000036, "Set Defaults", V2_1;
        SET_CONSTRAINTS = 0x00000037, "Set Constraints", V2_1;
        GET_CONSTRAINTS = 0x00000038, "Get Constraints", V2_1;
        QUERY_ASYNCHRONOUS_REQUESTS = 0x00000039, "Query Asynchronous Requests", V2_1;
        PROCESS = 0x0000003a, "Process", V2_1;
        PING = 0x0000003b, "Ping", V2_1;
    }
}

names! {
    /// How plaintext is brought to whole blocks.
    ///
    /// KMIP 1.4 section 9.1.3.2.15.
    pub struct PaddingMethod {
        NONE = 0x00000001, "None", V1_0;
        OAEP = 0x00000002, "OAEP", V1_0;
        PKCS5 = 0x00000003, "PKCS5", V1_0;
        SSL3 = 0x00000004, "SSL3", V1_0;
        ZEROS = 0x00000005, "Zeros", V1_0;
        ANSI_X9_23 = 0x00000006, "ANSI X9.23", V1_0;
        ISO_10126 = 0x00000007, "ISO 10126", V1_0;
        PKCS1_V1_5 = 0x00000008, "PKCS1 v1.5", V1_0;
        X9_31 = 0x00000009, "X9.31", V1_0;
        PSS = 0x0000000a, "PSS", V1_0;
    }
}

names! {
    /// What a client asks about a server.
    ///
    /// KMIP 1.4 section 9.1.3.2.24.
    pub struct QueryFunction {
        QUERY_OPERATIONS = 0x00000001, "Query Operations", V1_0;
        QUERY_OBJECTS = 0x00000002, "Query Objects", V1_0;
        QUERY_SERVER_INFORMATION = 0x00000003, "Query Server Information", V1_0;
        QUERY_APPLICATION_NAMESPACES = 0x00000004, "Query Application Namespaces", V1_0;
        QUERY_EXTENSION_LIST = 0x00000005, "Query Extension List", V1_1;
        QUERY_EXTENSION_MAP = 0x00000006, "Query Extension Map", V1_1;
        QUERY_ATTESTATION_TYPES = 0x00000007, "Query Attestation Types", V1_2;
        QUERY_RNGS = 0x00000008, "Query RNGs", V1_3;
        QUERY_VALIDATIONS = 0x00000009, "Query Validations", V1_3;
        QUERY_PROFILES = 0x0000000a, "Query Profiles", V1_3;
        QUERY_CAPABILITIES = 0x0000000b, "Query Capabilities", V1_3;
        QUERY_CLIENT_REGISTRATION_METHODS = 0x0000000c, "Query Client Registration Methods", V1_3;
        QUERY_DEFAULTS_INFORMATION = 0x0000000d, "Query Defaults Information", V2_0;
        QUERY_STORAGE_PROTECTION_MASKS = 0x0000000e, "Query Storage Protection Masks", V2_0;
    }
}

names! {
    /// Why an operation failed.
    ///
    /// KMIP 1.4 section 9.1.3.2.29.
    pub struct ResultReason {
        ITEM_NOT_FOUND = 0x00000001, "Item Not Found", V1_0;
        RESPONSE_TOO_LARGE = 0x00000002, "Response Too Large", V1_0;
        AUTHENTICATION_NOT_SUCCESSFUL = 0x00000003, "Authentication Not Successful", V1_0;
        INVALID_MESSAGE = 0x00000004, "Invalid Message", V1_0;
        OPERATION_NOT_SUPPORTED = 0x00000005, "Operation Not Supported", V1_0;
        MISSING_DATA = 0x00000006, "Missing Data", V1_0;
        INVALID_FIELD = 0x00000007, "Invalid Field", V1_0;
        FEATURE_NOT_SUPPORTED = 0x00000008, "Feature Not Supported", V1_0;
        OPERATION_CANCELED_BY_REQUESTER = 0x00000009, "Operation Canceled By Requester", V1_0;
        CRYPTOGRAPHIC_FAILURE = 0x0000000a, "Cryptographic Failure", V1_0;
        ILLEGAL_OPERATION = 0x0000000b, "Illegal Operation", V1_0;
        PERMISSION_DENIED = 0x0000000c, "Permission Denied", V1_0;
        OBJECT_ARCHIVED = 0x0000000d, "Object Archived", V1_0;
        INDEX_OUT_OF_BOUNDS = 0x0000000e, "Index Out Of Bounds", V1_0;
        APPLICATION_NAMESPACE_NOT_SUPPORTED = 0x0000000f, "Application Namespace Not Supported", V1_0;
        KEY_FORMAT_TYPE_NOT_SUPPORTED = 0x00000010, "Key Format Type Not Supported", V1_0;
        KEY_COMPRESSION_TYPE_NOT_SUPPORTED = 0x00000011, "Key Compression Type Not Supported", V1_0;
        ENCODING_OPTION_ERROR = 0x00000012, "Encoding Option Error", V1_1;
        KEY_VALUE_NOT_PRESENT = 0x00000013, "Key Value Not Present", V1_2;
        ATTESTATION_REQUIRED = 0x00000014, "Attestation Required", V1_2;
        ATTESTATION_FAILED = 0x00000015, "Attestation Failed", V1_2;
        SENSITIVE = 0x00000016, "Sensitive", V1_4;
        NOT_EXTRACTABLE = 0x00000017, "Not Extractable", V1_4;
        OBJECT_ALREADY_EXISTS = 0x00000018, "Object Already Exists", V1_4;
        INVALID_TICKET = 0x00000019, "Invalid Ticket", V2_0;
        USAGE_LIMIT_EXCEEDED = 0x0000001a, "Usage Limit Exceeded", V2_0;
        NUMERIC_RANGE = 0x0000001b, "Numeric Range", V2_0;
        INVALID_DATA_TYPE = 0x0000001c, "Invalid Data Type", V2_0;
        READ_ONLY_ATTRIBUTE = 0x0000001d, "Read Only Attribute", V2_0;
        MULTI_VALUED_ATTRIBUTE = 0x0000001e, "Multi Valued Attribute", V2_0;
        UNSUPPORTED_ATTRIBUTE = 0x0000001f, "Unsupported Attribute", V2_0;
        ATTRIBUTE_INSTANCE_NOT_FOUND = 0x00000020, "Attribute Instance Not Found", V2_0;
        ATTRIBUTE_NOT_FOUND = 0x00000021, "Attribute Not Found", V2_0;
        ATTRIBUTE_READ_ONLY = 0x00000022, "Attribute Read Only", V2_0;
        ATTRIBUTE_SINGLE_VALUED = 0x00000023, "Attribute Single Valued", V2_0;
        BAD_CRYPTOGRAPHIC_PARAMETERS = 0x00000024, "Bad Cryptographic Parameters", V2_0;
        BAD_PASSWORD = 0x00000025, "Bad Password", V2_0;
        CODEC_ERROR = 0x00000026, "Codec Error", V2_0;
        ILLEGAL_OBJECT_TYPE = 0x00000028, "Illegal Object Type", V2_0;
        INCOMPATIBLE_CRYPTOGRAPHIC_USAGE_MASK = 0x00000029, "Incompatible Cryptographic Usage Mask", V2_0;
        INTERNAL_SERVER_ERROR = 0x0000002a, "Internal Server Error", V2_0;
        INVALID_ASYNCHRONOUS_CORRELATION_VALUE = 0x0000002b, "Invalid Asynchronous Correlation Value", V2_0;
        INVALID_ATTRIBUTE = 0x0000002c, "Invalid Attribute", V2_0;
        INVALID_ATTRIBUTE_VALUE = 0x0000002d, "Invalid Attribute Value", V2_0;
        INVALID_CORRELATION_VALUE = 0x0000002e, "Invalid Correlation Value", V2_0;
        INVALID_CSR = 0x0000002f, "Invalid CSR", V2_0;
        INVALID_OBJECT_TYPE = 0x00000030, "Invalid Object Type", V2_0;
        KEY_WRAP_TYPE_NOT_SUPPORTED = 0x00000032, "Key Wrap Type Not Supported", V2_0;
        MISSING_INITIALIZATION_VECTOR = 0x00000034, "Missing Initialization Vector", V2_0;
        NON_UNIQUE_NAME_ATTRIBUTE = 0x00000035, "Non Unique Name Attribute", V2_0;
        OBJECT_DESTROYED = 0x00000036, "Object Destroyed", V2_0;
        OBJECT_NOT_FOUND = 0x00000037, "Object Not Found", V2_0;
        NOT_AUTHORISED = 0x00000039, "Not Authorised", V2_0;
        SERVER_LIMIT_EXCEEDED = 0x0000003a, "Server Limit Exceeded", V2_0;
        UNKNOWN_ENUMERATION = 0x0000003b, "Unknown Enumeration", V2_0;
        UNKNOWN_MESSAGE_EXTENSION = 0x0000003c, "Unknown Message Extension", V2_0;
        UNKNOWN_TAG = 0x0000003d, "Unknown Tag", V2_0;
        UNSUPPORTED_CRYPTOGRAPHIC_PARAMETERS = 0x0000003e, "Unsupported Cryptographic Parameters", V2_0;
        UNSUPPORTED_PROTOCOL_VERSION = 0x0000003f, "Unsupported Protocol Version", V2_0;
        WRAPPING_OBJECT_ARCHIVED = 0x00000040, "Wrapping Object Archived", V2_0;
        WRAPPING_OBJECT_DESTROYED = 0x00000041, "Wrapping Object Destroyed", V2_0;
        WRAPPING_OBJECT_NOT_FOUND = 0x00000042, "Wrapping Object Not Found", V2_0;
        WRONG_KEY_LIFECYCLE_STATE = 0x00000043, "Wrong Key Lifecycle State", V2_0;
        PROTECTION_STORAGE_UNAVAILABLE = 0x00000044, "Protection Storage Unavailable", V2_0;
        PKCS_11_CODEC_ERROR = 0x00000045, "PKCS#11 Codec Error", V2_0;
        PKCS_11_INVALID_FUNCTION = 0x00000046, "PKCS#11 Invalid Function", V2_0;
        PKCS_11_INVALID_INTERFACE = 0x00000047, "PKCS#11 Invalid Interface", V2_0;
        PRIVATE_PROTECTION_STORAGE_UNAVAILABLE = 0x00000048, "Private Protection Storage Unavailable", V2_0;
        PUBLIC_PROTECTION_STORAGE_UNAVAILABLE = 0x00000049, "Public Protection Storage Unavailable", V2_0;
        UNKNOWN_OBJECT_GROUP = 0x0000004a, "Unknown Object Group", V2_1;
        CONSTRAINT_VIOLATION = 0x0000004b, "Constraint Violation", V2_1;
        DUPLICATE_PROCESS_REQUEST = 0x0000004c, "Duplicate Process Request", V2_1;
        GENERAL_FAILURE = 0x00000100, "General Failure", V1_0;
    }
}

names! {
    /// How an operation ended.
    ///
    /// KMIP 1.4 section 9.1.3.2.28.
    pub struct ResultStatus {
        SUCCESS = 0x00000000, "Success", V1_0;
        OPERATION_FAILED = 0x00000001, "Operation Failed", V1_0;
        OPERATION_PENDING = 0x00000002, "Operation Pending", V1_0;
        OPERATION_UNDONE = 0x00000003, "Operation Undone", V1_0;
    }
}

names! {
    /// Why an object was revoked.
    ///
    /// KMIP 1.4 section 9.1.3.2.19.
    pub struct RevocationReasonCode {
        UNSPECIFIED = 0x00000001, "Unspecified", V1_0;
        KEY_COMPROMISE = 0x00000002, "Key Compromise", V1_0;
        CA_COMPROMISE = 0x00000003, "CA Compromise", V1_0;
        AFFILIATION_CHANGED = 0x00000004, "Affiliation Changed", V1_0;
        SUPERSEDED = 0x00000005, "Superseded", V1_0;
        CESSATION_OF_OPERATION = 0x00000006, "Cessation Of Operation", V1_0;
        PRIVILEGE_WITHDRAWN = 0x00000007, "Privilege Withdrawn", V1_0;
    }
}

names! {
    /// Where an object stands in its life.
    ///
    /// KMIP 1.4 section 9.1.3.2.18.
    pub struct State {
        PRE_ACTIVE = 0x00000001, "Pre-Active", V1_0;
        ACTIVE = 0x00000002, "Active", V1_0;
        DEACTIVATED = 0x00000003, "Deactivated", V1_0;
        COMPROMISED = 0x00000004, "Compromised", V1_0;
        DESTROYED = 0x00000005, "Destroyed", V1_0;
        DESTROYED_COMPROMISED = 0x00000006, "Destroyed Compromised", V1_0;
    }
}
