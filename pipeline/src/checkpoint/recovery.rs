//! Which checkpoint a start begins with.
//!
//! Invariant: an older one is used only where a newer one is damaged, which is told; where there are some and none is good,
//! nothing is begun.

use super::CheckpointError;
use super::archive::{Archive, MANIFESTS};
use super::manifest::{Manifest, manifest_sequence};

/// The checkpoint to begin with.
#[derive(Debug)]
pub struct Newest {
    /// None: there never was one here.
    pub manifest: Option<Manifest>,
    /// What is wrong with newer ones, the newest first.
    pub passed_over: Vec<CheckpointError>,
}

pub(super) fn newest(archive: &Archive) -> Result<Newest, CheckpointError> {
    let mut passed_over = Vec::new();
    for sequence in archive.sequences()?.into_iter().rev() {
        let checked = archive.manifest(sequence).and_then(|manifest| archive.check(&manifest).map(|()| manifest));
        match checked {
            Ok(manifest) => return Ok(Newest { manifest: Some(manifest), passed_over }),
            Err(why) if why.allows_older() => passed_over.push(why),
            Err(why) => return Err(why),
        }
    }
    let foreign = archive.objects(MANIFESTS)?.into_iter().filter(|object| manifest_sequence(&object.name).is_none());
    passed_over.extend(foreign.map(|object| CheckpointError::Foreign {
        path: archive.storage.place(&format!("{MANIFESTS}/{}", object.name)),
        found: "its name is not that of a manifest".to_owned(),
    }));
    if passed_over.is_empty() {
        return Ok(Newest { manifest: None, passed_over });
    }
    let damaged = passed_over.iter().map(|why| why.to_string().trim_start_matches("checkpoint: ").to_owned()).collect();
    Err(CheckpointError::NoneGood { directory: archive.place(), damaged })
}
