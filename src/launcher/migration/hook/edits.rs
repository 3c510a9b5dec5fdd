//! The edits in their order (contract/migration.md 9.4). Each writes what it names and nothing else, and leaves a document that is
//! adapted already as it is.

use super::incoming::{EditError, Incoming};
use super::{cpus, gpu, interfaces, paths};
use crate::domain::xml_text::{Edits, XmlText};

impl Incoming {
    /// The XML that starts here, from the incoming one.
    pub fn adapt(&self, xml: &str) -> Result<String, EditError> {
        let document = XmlText::read(xml)?;
        let name = document.root().name();
        if name != "domain" {
            return Err(EditError::NotADomain(name.to_owned()));
        }
        let mut edits = Edits::new(&document);
        cpus::pin(self, xml, &document, &mut edits)?;
        paths::move_namespace(&self.vmi, &document, &mut edits);
        paths::find_container_disks(&self.vmi, &document, &mut edits);
        if self.upgrade_ordinal_interfaces {
            interfaces::rename_taps(&self.vmi, &document, &mut edits)?;
        }
        if self.vgpu {
            gpu::replace(self, &document, &mut edits)?;
        }
        Ok(edits.finish())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::domain::xml_text::tests::{real_documents, rewritten};

    /// A VM for which every edit has something to do, on a node with many CPUs.
    fn incoming() -> Incoming {
        let cpu = json!({"dedicatedCpuPlacement": true, "isolateEmulatorThread": true,
            "numa": {"guestMappingPassthrough": {}}});
        let vmi = json!({"metadata": {"name": "vm", "namespace": "default"},
            "spec": {"domain": {"cpu": cpu, "memory": {"guest": "1Gi", "hugepages": {"pageSize": "2Mi"}}},
                "networks": [{"name": "default", "pod": {}}]},
            "status": {"migrationState": {"targetState": {"domainNamespace": "other"}}}});
        let cpus: Vec<u32> = (300..500).collect();
        let cells = json!([{"id": 3, "cpus": cpus.iter().map(|id| json!({"id": id})).collect::<Vec<_>>()}]);
        Incoming {
            vmi: crate::vmi::parse(vmi.to_string().as_bytes()).unwrap(),
            facts: serde_json::from_value(
                json!({"cpuSet": cpus, "optionsPresent": true, "topology": {"numaCells": cells}}),
            )
            .unwrap(),
            upgrade_ordinal_interfaces: true,
            vgpu: true,
        }
    }

    /// The text without what the hook may write.
    fn rest(text: &str) -> String {
        let document = XmlText::read(text).unwrap();
        let mut edits = Edits::new(&document);
        for name in ["cputune", "numatune"] {
            document.root().all(name).for_each(|node| edits.remove(node));
        }
        for disk in document.root().child("devices").into_iter().flat_map(|devices| devices.all("disk")) {
            for path in [&["source"][..], &["source", "dataStore", "source"], &["backingStore", "source"]] {
                let file = disk.find(path).filter(|source| source.attribute("file").is_some());
                file.into_iter().for_each(|source| edits.set(source, "file", "?"));
            }
        }
        edits.finish()
    }

    proptest! {
        #[test]
        fn what_no_edit_names_stays_byte_for_byte(choices: Vec<u8>, which: prop::sample::Index) {
            let documents = real_documents();
            let original: &String = which.get(&documents);
            let text = rewritten(original, &choices);
            let incoming = incoming();
            let adapted = incoming.adapt(&text).unwrap();
            prop_assert_eq!(rest(&adapted), rest(&text));
            let document = XmlText::read(&adapted).unwrap();
            let pin = document.root().find(&["cputune", "emulatorpin"]).and_then(|pin| pin.attribute("cpuset"));
            prop_assert!(pin.unwrap().parse::<u32>().unwrap() >= 300);
            prop_assert_eq!(incoming.adapt(&adapted).unwrap(), adapted);
        }
    }

    #[test]
    fn what_is_no_domain_is_refused() {
        let error = |xml| Incoming::default().adapt(xml).unwrap_err().to_string();
        assert_eq!(error("<network/>"), "failed to decode XML: the outermost element is \"network\", not \"domain\"");
        assert_eq!(error("<domain>"), "failed to decode XML: the XML ends before its outermost element does");
        let mut dedicated = incoming();
        dedicated.vgpu = false;
        let bad = dedicated.adapt("<domain><memory>x</memory></domain>").unwrap_err().to_string();
        assert!(bad.starts_with("failed to decode XML: domain XML, line 1"), "{bad}");
    }
}
