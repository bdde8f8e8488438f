//! Sealed blobs, what belongs to them, and proofs of a manifest, on any bytes: no panic, what decodes encodes to the same bytes,
//! and no proof leads to a root that is made up.

use sealing::approval::Manifest;
use sealing::blob::check_decoder;
use sealing::platform::KeyRequest;
use sealing::shares::Share;
use sefs_manifest::Proof;

/// See the module's header.
pub fn run(input: &[u8]) {
    let Some((&which, bytes)) = input.split_first() else { return };
    match which % 6 {
        0 => check_decoder(bytes),
        1 => drop(Share::decode(bytes)),
        2 => drop(sealing::set_of_slot(bytes)),
        3 => {
            if let Ok(manifest) = Manifest::decode(bytes) {
                assert_eq!(manifest.encode()[..], *bytes);
            }
        }
        4 => {
            if let Ok(proof) = Proof::decode(bytes) {
                assert_eq!(proof.encode(), bytes);
                assert!(proof.verify(&[0; 32]).is_err());
            }
        }
        _ => {
            if let Some(Ok(request)) = bytes.first_chunk().map(KeyRequest::decode) {
                assert_eq!(request.encode()[..], bytes[..512]);
            }
        }
    }
}
