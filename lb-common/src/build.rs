//! Whose packet programs run: whoever loads them writes it into a map, so that it is known while no daemon runs, and to a daemon or a
//! command of another build.

/// The one element of the `BUILD` map. Texts are padded with zeroes.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Build {
    /// Version of viplb.
    pub version: [u8; 24],
    /// The commit it was built from; empty where that is not known.
    pub commit: [u8; 24],
    /// First bytes of the SHA-256 of the object that the programs were loaded from.
    pub object: [u8; 8],
}
layout!(Build = 56: version, commit, object);
