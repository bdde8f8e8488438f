//! Sealed blobs and what belongs to them, on any bytes: no panic, and a header that decodes encodes to the same bytes.

use sealing::approval::Manifest;
use sealing::blob::check_decoder;
use sealing::platform::KeyRequest;
use sealing::shares::Share;

/// See the module's header.
pub fn run(input: &[u8]) {
    let Some((&which, bytes)) = input.split_first() else { return };
    match which % 5 {
        0 => check_decoder(bytes),
        1 => drop(Share::decode(bytes)),
        2 => drop(sealing::set_of_slot(bytes)),
        3 => {
            if let Ok(manifest) = Manifest::decode(bytes) {
                assert_eq!(manifest.encode()[..], *bytes);
            }
        }
        _ => {
            if let Some(Ok(request)) = bytes.first_chunk().map(KeyRequest::decode) {
                assert_eq!(request.encode()[..], bytes[..512]);
            }
        }
    }
}
