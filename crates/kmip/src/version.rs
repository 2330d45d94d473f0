//! Protocol versions.

/// A version of the protocol (KMIP 1.4 section 6.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProtocolVersion {
    /// Changes with what an older peer cannot read.
    pub major: i32,
    /// Changes with what an older peer can do without.
    pub minor: i32,
}

impl ProtocolVersion {
    /// KMIP 1.0 (2010).
    pub const V1_0: Self = Self { major: 1, minor: 0 };
    /// KMIP 1.1 (2013).
    pub const V1_1: Self = Self { major: 1, minor: 1 };
    /// KMIP 1.2 (2015).
    pub const V1_2: Self = Self { major: 1, minor: 2 };
    /// KMIP 1.3 (2016).
    pub const V1_3: Self = Self { major: 1, minor: 3 };
    /// KMIP 1.4 (2017).
    pub const V1_4: Self = Self { major: 1, minor: 4 };

    /// KMIP 2.0 (2019).
    pub const V2_0: Self = Self { major: 2, minor: 0 };
    /// KMIP 2.1 (2020).
    pub const V2_1: Self = Self { major: 2, minor: 1 };

    /// What this crate can speak, best first, as Discover Versions wants it.
    pub const SUPPORTED: &'static [Self] =
        &[Self::V2_1, Self::V2_0, Self::V1_4, Self::V1_3, Self::V1_2, Self::V1_1, Self::V1_0];

    /// Whether attributes are written as KMIP 2 writes them: by tag, in a structure of their own.
    pub(crate) fn is_2(self) -> bool {
        self.major >= 2
    }

    /// Whether this crate can speak it.
    #[must_use]
    pub fn is_supported(self) -> bool {
        Self::SUPPORTED.contains(&self)
    }
}

impl std::fmt::Display for ProtocolVersion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}
