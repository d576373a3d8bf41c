//! The program without the feature `keyless`: nothing can be trusted, so nothing is.

use std::convert::Infallible;
use std::fmt;
use std::path::Path;

use jiff::Timestamp;

use super::super::Key;
use super::{Artifact, Who};

/// Why no trusted root and no certificate authority can be had.
pub const WHY: &str = "this program was built without keyless signatures; build it with the feature 'keyless', or name a key";

/// None.
#[derive(Clone, Debug, PartialEq)]
pub struct TrustedRoot(Infallible);

/// None.
#[derive(Clone, Debug, PartialEq)]
pub struct Authority(Infallible);

impl TrustedRoot {
    pub fn parse(_: &Path, _: &[u8]) -> Result<Self, String> {
        Err(WHY.to_owned())
    }

    pub fn of_fulcio(_: &str, _: &[u8], _: &[(String, Vec<u8>)]) -> Result<Self, String> {
        Err(WHY.to_owned())
    }

    pub fn of_log(_: &[(String, Vec<u8>)]) -> Result<Self, String> {
        Err(WHY.to_owned())
    }

    pub fn path(&self) -> &Path {
        match self.0 {}
    }

    pub fn ends(&self) -> Option<Timestamp> {
        match self.0 {}
    }

    pub fn signer(&self, _: &[u8], _: Artifact<'_>) -> Result<Who, String> {
        match self.0 {}
    }

    pub fn has_logged(&self, _: &[u8], _: Artifact<'_>, _: &Key) -> Result<(), String> {
        match self.0 {}
    }
}

impl Authority {
    pub fn parse(
        _: &str,
        _: &[u8],
        _: &[u8],
        _: Option<&str>,
        _: Option<&str>,
    ) -> Result<Self, String> {
        Err(WHY.to_owned())
    }

    pub fn key_of(&self, _: &[Vec<u8>], _: Timestamp) -> Result<Key, String> {
        match self.0 {}
    }
}

impl fmt::Display for Authority {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {}
    }
}
