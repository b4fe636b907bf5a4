//! The add-on in a customer's stream.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::AddonError;
use super::description::StreamUse;
use super::payload::{Payload, add_folders};
use crate::initramfs::{self, Added, Overlay};
use crate::{Image, ImageId, Stream};

/// Line that lets the installer call ours; it is read by `bash`.
const HOOK: &str = "[ ! -r /usr/lib/dpfs/installer ] || . /usr/lib/dpfs/installer # DPFS\n";
const SYSTEMD: [&str; 2] = ["usr/lib/systemd/systemd", "lib/systemd/systemd"];
const LIVE: &str = "dpfs-live.service";
/// Links that a path may go through, as for the kernel.
const HOPS: usize = 40;

/// Put the add-on into every initramfs of a stream, and its name into `info`. What is behind the images stays there.
///
/// # Errors
/// What the stream lacks, or holds in a way that is not understood.
pub fn repack<'a>(
    base: &Stream<'a>,
    payload: &Payload,
    stream_use: StreamUse,
    mtime: u32,
) -> Result<Stream<'a>, AddonError> {
    let mut stream = base.clone();
    let mut found = false;
    for image in &mut stream.images {
        let place =
            |what: String| AddonError(format!("{}, version {}: {what}", image.id, image.version));
        if image.id == ImageId::INITRAMFS {
            found = true;
            let data = with_payload(&image.data, payload, stream_use, mtime).map_err(place)?;
            image.data = Cow::Owned(data);
        } else if image.id == ImageId::INFO {
            let data = with_member(&image.data, payload).map_err(place)?;
            image.data = Cow::Owned(data);
        }
    }
    if !found {
        return Err(AddonError(
            "found no image initramfs; allowed: a stream that boots Linux".into(),
        ));
    }
    stream.sort();
    Ok(stream)
}

/// Give the images of `repacked` that `base` does not have as they are: `mlx-mkbfb` makes the one of the other with them.
pub fn delta<'a>(base: &Stream, repacked: &Stream<'a>) -> Stream<'a> {
    let differs = |image: &&Image| !base.images.contains(image);
    Stream {
        images: repacked.images.iter().filter(differs).cloned().collect(),
        trailing: b"",
    }
}

fn with_payload(
    base: &[u8],
    payload: &Payload,
    stream_use: StreamUse,
    mtime: u32,
) -> Result<Vec<u8>, String> {
    let is_installer =
        |path: &str| path.ends_with("/install.env/common") && path.matches('/').count() == 2;
    let failed = |error: std::io::Error| error.to_string();
    let all = |path: &str| is_installer(path) || SYSTEMD.contains(&path);
    let old = initramfs::find(base, all).map_err(failed)?;
    let links = initramfs::links(base).map_err(failed)?;
    let mut new = payload.files.clone();
    if stream_use.live {
        if !SYSTEMD.iter().any(|path| old.contains_key(*path)) {
            return Err(
                "found no systemd, which would start DPFS; allowed: stream.live = false".into(),
            );
        }
        let unit = format!("usr/lib/systemd/system/{LIVE}");
        new.insert(
            format!("etc/systemd/system/initrd.target.wants/{LIVE}"),
            Added::link(&format!("/{unit}")),
        );
        new.insert(unit, Added::file(0o644, payload.live_unit.clone().into()));
    }
    new.retain(|_, file| !file.is_folder());
    let mut new: Overlay = new
        .into_iter()
        .map(|(path, file)| Ok((resolve(&path, &links)?, file)))
        .collect::<Result<_, String>>()?;
    if stream_use.install {
        let installers: Vec<_> = old
            .into_iter()
            .filter(|(path, _)| is_installer(path))
            .collect();
        if installers.is_empty() {
            return Err(
                "found no installer (DISTRIBUTION/install.env/common); allowed: stream.install = false".into(),
            );
        }
        for (path, mut script) in installers {
            let hook = HOOK.as_bytes();
            if !script.data.ends_with(hook) {
                if !script.data.ends_with(b"\n") {
                    script.data.push(b'\n');
                }
                script.data.extend_from_slice(hook);
            }
            new.insert(path, script);
        }
    }
    add_folders(&mut new);
    initramfs::merge(base, &new, mtime).map_err(failed)
}

/// Follow links among the folders of a path, as they are in the initramfs: a folder must not take a link's place.
fn resolve(path: &str, links: &BTreeMap<String, String>) -> Result<String, String> {
    let mut left: Vec<String> = path.split('/').rev().map(String::from).collect();
    let mut at: Vec<String> = Vec::new();
    let mut hops = 0;
    while let Some(part) = left.pop() {
        match part.as_str() {
            "" | "." => continue,
            ".." => {
                at.pop();
                continue;
            }
            _ => at.push(part),
        }
        let Some(target) = links.get(&at.join("/")).filter(|_| !left.is_empty()) else {
            continue;
        };
        hops += 1;
        if hops > HOPS {
            return Err(format!("{path}: more than {HOPS} links"));
        }
        if target.starts_with('/') {
            at.clear();
        } else {
            at.pop();
        }
        left.extend(target.split('/').rev().map(String::from));
    }
    Ok(at.join("/"))
}

/// Add DPFS to the list of what a stream holds (Redfish, SoftwareInventoryCollection), or bring its version up to date.
fn with_member(info: &[u8], payload: &Payload) -> Result<Vec<u8>, String> {
    const NAME: &str = "DPFS";
    let mut info: Value =
        serde_json::from_slice(info).map_err(|error| format!("this is not JSON: {error}"))?;
    let list = "Members: found none; allowed: a Redfish SoftwareInventoryCollection";
    let collection = info["@odata.id"]
        .as_str()
        .unwrap_or("/redfish/v1/UpdateService/SoftwareInventory")
        .to_string();
    let members = info
        .get_mut("Members")
        .and_then(Value::as_array_mut)
        .ok_or(list)?;
    members.retain(|member| member["Name"] != NAME);
    let ids = members
        .iter()
        .filter_map(|member| member["Id"].as_str()?.parse::<u32>().ok());
    let id = ids.max().map_or(1, |id| id.saturating_add(1));
    members.push(json!({
        "@odata.id": format!("{collection}/{id}"), "Id": id.to_string(), "Name": NAME,
        "Version": payload.version, "SoftwareId": format!("dpfs-{}", payload.board),
    }));
    let count = members.len();
    info["Members@odata.count"] = json!(count);
    Ok(format!("{info:#}\n").into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(version: &str) -> Payload {
        Payload {
            version: version.into(),
            board: "bluefield2".into(),
            files: Overlay::new(),
            live_unit: String::new(),
            secrets: Vec::new(),
        }
    }

    #[test]
    fn info_gets_a_member_once() {
        let info = br#"{"@odata.id": "/r/S", "Members": [{"Id": "7", "Name": "BF2_BSP", "Version": "4"}]}"#;
        let first = with_member(info, &payload("1")).unwrap();
        let second: Value =
            serde_json::from_slice(&with_member(&first, &payload("2")).unwrap()).unwrap();
        assert_eq!(second["Members@odata.count"], 2);
        assert_eq!(second["Members"][0]["Name"], "BF2_BSP");
        assert_eq!(
            second["Members"][1],
            json!({"@odata.id": "/r/S/8", "Id": "8", "Name": "DPFS", "Version": "2", "SoftwareId": "dpfs-bluefield2"})
        );
        assert!(
            with_member(b"[]", &payload("1"))
                .unwrap_err()
                .starts_with("Members: found none")
        );
        assert!(
            with_member(b"{", &payload("1"))
                .unwrap_err()
                .starts_with("this is not JSON")
        );
    }

    #[test]
    fn links_of_the_initramfs_are_followed() {
        let links = [
            ("sbin", "usr/sbin"),
            ("usr/sbin", "bin"),
            ("lib", "/usr/lib"),
            ("a", "b"),
            ("b", "a"),
        ];
        let links = links
            .map(|(path, target)| (path.to_string(), target.to_string()))
            .into();
        for (path, found) in [
            ("usr/sbin/dpfs", "usr/bin/dpfs"),
            ("sbin/dpfs", "usr/bin/dpfs"),
            ("lib/x/y", "usr/lib/x/y"),
            ("usr/sbin", "usr/sbin"),
            ("etc/dpfs/dpfs.toml", "etc/dpfs/dpfs.toml"),
        ] {
            assert_eq!(resolve(path, &links).unwrap(), found);
        }
        assert!(resolve("a/x", &links).is_err());
    }
}
