//! The bill of materials: which crates the daemon is made of (CycloneDX 1.5), as cargo resolves them for a target.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use cargo_metadata::{CargoOpt, DependencyKind, Metadata, MetadataCommand, Package, PackageId};
use cyclonedx_bom::external_models::normalized_string::NormalizedString;
use cyclonedx_bom::external_models::spdx::SpdxExpression;
use cyclonedx_bom::external_models::uri::Purl;
use cyclonedx_bom::models::bom::Bom;
use cyclonedx_bom::models::component::{Classification, Component, Components};
use cyclonedx_bom::models::dependency::{Dependencies, Dependency};
use cyclonedx_bom::models::hash::{Hash, HashAlgorithm, HashValue, Hashes};
use cyclonedx_bom::models::license::{LicenseChoice, Licenses};
use cyclonedx_bom::models::metadata::Metadata as BomMetadata;

use super::AddonError;
use super::payload::sha256;

/// Hold what cargo says of the daemon's source.
pub struct Sbom {
    metadata: Metadata,
    root: PackageId,
}

impl Sbom {
    /// Target of a DPU.
    pub const DPU: &str = "aarch64-unknown-linux-gnu";

    /// Ask cargo about the package of a `Cargo.toml`, with its default features, for a target by rustc's name.
    ///
    /// # Errors
    /// Of cargo.
    pub fn read(manifest: &Path, target: &str) -> Result<Self, AddonError> {
        let failed = |what: String| AddonError(format!("{}: {what}", manifest.display()));
        let metadata = MetadataCommand::new()
            .manifest_path(manifest)
            .features(CargoOpt::SomeFeatures(Vec::new()))
            .other_options(["--locked".into(), "--filter-platform".into(), target.into()])
            .exec()
            .map_err(|error| failed(error.to_string()))?;
        let root = metadata.root_package().map(|package| package.id.clone());
        let root =
            root.ok_or_else(|| failed("found no package; allowed: the Cargo.toml of one".into()))?;
        Ok(Self { metadata, root })
    }

    /// Give the package's version.
    pub fn version(&self) -> String {
        self.metadata[&self.root].version.to_string()
    }

    /// Give what the package needs to run, for each package: no tools of the build, no tests.
    fn needed(&self) -> BTreeMap<&PackageId, BTreeSet<&PackageId>> {
        let nodes = self
            .metadata
            .resolve
            .iter()
            .flat_map(|resolve| &resolve.nodes);
        let nodes: BTreeMap<&PackageId, _> = nodes.map(|node| (&node.id, node)).collect();
        let mut needed = BTreeMap::new();
        let mut left = vec![&self.root];
        while let Some(id) = left.pop() {
            if needed.contains_key(id) {
                continue;
            }
            let deps = nodes.get(id).into_iter().flat_map(|node| &node.deps);
            let runs = deps.filter(|dep| {
                dep.dep_kinds
                    .iter()
                    .any(|kind| kind.kind == DependencyKind::Normal)
            });
            let runs: BTreeSet<&PackageId> = runs.map(|dep| &dep.pkg).collect();
            left.extend(runs.iter().copied());
            needed.insert(id, runs);
        }
        needed
    }

    /// Write the bill as JSON, with the program's checksum. The same source gives the same bytes.
    ///
    /// # Errors
    /// Of the writer.
    pub fn json(&self, program: &[u8]) -> Result<Vec<u8>, AddonError> {
        let needed = self.needed();
        let package = |id: &&PackageId| &self.metadata[*id];
        let mut root = component(&self.metadata[&self.root], Classification::Application);
        root.hashes = Some(Hashes(vec![Hash {
            alg: HashAlgorithm::SHA_256,
            content: HashValue(sha256(program)),
        }]));
        let others = needed.keys().filter(|id| **id != &self.root);
        let mut components: Vec<Component> = others
            .map(|id| component(package(id), Classification::Library))
            .collect();
        components.sort_by(|a, b| a.bom_ref.cmp(&b.bom_ref));
        let mut dependencies: Vec<Dependency> = needed
            .iter()
            .map(|(id, runs)| {
                let mut dependencies: Vec<String> =
                    runs.iter().map(|id| reference(package(id))).collect();
                dependencies.sort();
                Dependency {
                    dependency_ref: reference(package(id)),
                    dependencies,
                }
            })
            .collect();
        dependencies.sort_by(|a, b| a.dependency_ref.cmp(&b.dependency_ref));
        let bom = Bom {
            // Neither a time nor a random number: the same source gives the same bytes.
            serial_number: None,
            metadata: Some(BomMetadata {
                component: Some(root),
                ..BomMetadata::default()
            }),
            components: Some(Components(components)),
            dependencies: Some(Dependencies(dependencies)),
            ..Bom::default()
        };
        let mut bytes = Vec::new();
        bom.output_as_json_v1_5(&mut bytes)
            .map_err(|error| AddonError(format!("bill of materials: {error}")))?;
        bytes.push(b'\n');
        Ok(bytes)
    }
}

/// Name a package by its package URL, which has no path of this machine.
fn reference(package: &Package) -> String {
    format!("pkg:cargo/{}@{}", package.name, package.version)
}

fn component(package: &Package, kind: Classification) -> Component {
    let version = package.version.to_string();
    let mut component = Component::new(kind, &package.name, &version, Some(reference(package)));
    component.purl = Purl::new("cargo", &package.name, &version).ok();
    component.description = package.description.as_deref().map(NormalizedString::new);
    let license = package
        .license
        .clone()
        .and_then(|license| SpdxExpression::parse_lax(license).ok());
    component.licenses = license.map(|license| Licenses(vec![LicenseChoice::Expression(license)]));
    component
}
