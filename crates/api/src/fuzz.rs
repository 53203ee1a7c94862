//! The decoders of this crate as fuzz targets: dockerd's plugin requests and the bodies of the REST API.
//! `orlop_model::fuzz` says what they owe.

use crate::rest::decode;
use crate::wire::{AddStore, AdoptVolume, Attach, Check, Collect, CreateVolume, Detach, Protect, Restore, RotateKeys, Shutdown};
use axum::body::Bytes;
use orlop_model::fuzz::Target;
use orlop_model::{StoreUpdate, VolumeUpdate};

/// The targets of this crate.
pub const TARGETS: &[Target] = &[
    Target { name: "plugin-request", run: crate::docker::reads_request, seeds: plugin_seeds, covered: false },
    Target { name: "rest-body", run: rest_body, seeds: rest_seeds, covered: false },
];

fn plugin_seeds() -> Vec<Vec<u8>> {
    let samples = [r#"{"Name":"db","Opts":{"size":"10G","store":"s3prod"}}"#, r#"{"Name":"db","ID":"0a1b"}"#, "{}", ""];
    samples.map(|s| s.as_bytes().to_vec()).to_vec()
}

fn rest_body(bytes: &[u8]) -> bool {
    let body = Bytes::copy_from_slice(bytes);
    let volumes = decode::<CreateVolume>(&body).is_ok() | decode::<VolumeUpdate>(&body).is_ok() | decode::<AdoptVolume>(&body).is_ok();
    let more = decode::<Protect>(&body).is_ok() | decode::<Restore>(&body).is_ok() | decode::<Attach>(&body).is_ok();
    let care = decode::<Detach>(&body).is_ok() | decode::<Check>(&body).is_ok() | decode::<Collect>(&body).is_ok();
    let others = decode::<AddStore>(&body).is_ok()
        | decode::<StoreUpdate>(&body).is_ok()
        | decode::<RotateKeys>(&body).is_ok()
        | decode::<Shutdown>(&body).is_ok();
    volumes | more | care | others
}

fn rest_seeds() -> Vec<Vec<u8>> {
    let samples = [
        r#"{"name":"db","options":{"size":"10G"},"labels":{"a":"b"}}"#,
        r#"{"directory":"/mnt","read_only":true,"abandon_unsynced":false}"#,
        r#"{"repair":true}"#,
        "{}",
    ];
    samples.map(|s| s.as_bytes().to_vec()).to_vec()
}

#[cfg(test)]
mod tests {
    #[test]
    fn any_bytes_are_decoded_or_refused() {
        orlop_model::fuzz::exercise_all(super::TARGETS, 4000);
    }
}
