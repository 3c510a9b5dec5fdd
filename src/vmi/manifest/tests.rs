//! Files as people write them, read and refused.

use super::*;

fn options() -> Options<'static> {
    Options { file: "vm.yaml", host_arch: "amd64", ..Options::default() }
}

fn read(text: &str) -> Result<Manifest, ManifestError> {
    Manifest::read(text, &options())
}

fn errors(text: &str) -> Vec<String> {
    read(text).unwrap_err().lines().to_vec()
}

const DEVICES: &str = "{memory: {guest: 1Gi}, devices: {}}";

fn vmi(name: &str) -> String {
    format!("kind: VirtualMachineInstance\nmetadata: {{name: {name}}}\nspec: {{domain: {DEVICES}}}\n")
}

#[test]
fn virtual_machine_gives_its_template_under_its_own_name() {
    let text = "apiVersion: kubevirt.io/v1\nkind: VirtualMachine\nmetadata: {name: harbour, namespace: lab, uid: of-the-vm}\n\
                spec:\n  runStrategy: Always\n  template:\n    metadata: {name: left, namespace: over, labels: {a: b}}\n    \
                spec: {domain: {memory: {guest: 1Gi}, devices: {}}}\n";
    let manifest = read(text).unwrap();
    assert_eq!(manifest.vmi.domain_name(), "lab_harbour");
    assert_eq!(manifest.vmi.metadata.uid, "", "the VirtualMachine's uid is not the instance's");
    assert_eq!(manifest.vmi.metadata.labels["a"], "b");
    assert_eq!(manifest.value["kind"], "VirtualMachineInstance");
    assert_eq!(manifest.path("spec.domain.cpu"), "spec.template.spec.domain.cpu");
    assert_eq!(manifest.path("metadata.name"), "metadata.name");
    assert_eq!(manifest.path("metadata.annotations"), "spec.template.metadata.annotations");
    let without = text.replace(", namespace: lab", "");
    assert_eq!(read(&without).unwrap().vmi.domain_name(), "default_harbour");
}

#[test]
fn replica_sets_and_pools_give_their_template() {
    let template = format!("{{spec: {{domain: {DEVICES}}}}}");
    let set = format!(
        "kind: VirtualMachineInstanceReplicaSet\nmetadata: {{name: web}}\nspec: {{selector: {{}}, template: {template}}}\n"
    );
    assert_eq!(read(&set).unwrap().vmi.metadata.name, "web");
    let pool = format!(
        "apiVersion: pool.kubevirt.io/v1alpha1\nkind: VirtualMachinePool\nmetadata: {{name: web}}\n\
         spec: {{selector: {{}}, virtualMachineTemplate: {{spec: {{template: {template}}}}}}}\n"
    );
    let pool = read(&pool).unwrap();
    assert_eq!(pool.vmi.metadata.name, "web-0");
    assert_eq!(pool.path("spec.domain"), "spec.virtualMachineTemplate.spec.template.spec.domain");
}

#[test]
fn one_machine_is_found_among_other_objects() {
    let text =
        format!("kind: Secret\nmetadata: {{name: s}}\n---\n{}---\nkind: Service\nmetadata: {{name: w}}\n", vmi("a"));
    let manifest = read(&text).unwrap();
    let said: Vec<String> = manifest.warning_lines().collect();
    assert_eq!(said, ["vm.yaml: not looked at: Secret s (line 1), Service w (line 8)"]);
    let list = format!("kind: List\nitems:\n- kind: Secret\n- {}", vmi("b").trim_end().replace('\n', "\n  "));
    assert_eq!(read(&list).unwrap().vmi.metadata.name, "b");
    let typed = "kind: VirtualMachineInstanceList\nitems:\n- metadata: {name: c}\n  spec: {domain: {devices: {}}}\n";
    assert_eq!(read(typed).unwrap().vmi.metadata.name, "c");
}

#[test]
fn of_several_machines_one_is_chosen_by_name() {
    let text = [vmi("a"), vmi("b")].join("---\n");
    let error = &errors(&text)[0];
    assert!(
        error.starts_with("vm.yaml: 2 virtual machines: VirtualMachineInstance a (line 1), VirtualMachineInstance b")
    );
    assert!(error.contains("--vm NAME"), "{error}");
    let chosen = |name| Manifest::read(&text, &Options { vm: Some(name), ..options() });
    assert_eq!(chosen("b").unwrap().vmi.metadata.name, "b");
    assert!(chosen("c").unwrap_err().to_string().contains("no virtual machine \"c\", but VirtualMachineInstance a"));
}

#[test]
fn what_is_not_a_machine_is_reported() {
    assert!(errors("kind: Pod\n")[0].starts_with("vm.yaml:1: kind: \"Pod\" is neither VirtualMachineInstance nor"));
    let other = "apiVersion: example.org/v1\nkind: VirtualMachine\nmetadata: {name: a}\n";
    assert!(errors(other)[0].contains("\"VirtualMachine\" of example.org/v1 is neither"), "{:?}", errors(other));
    assert_eq!(errors(""), ["vm.yaml: there is no document in it"]);
    assert_eq!(errors("just text"), ["vm.yaml:1: the document is not an object, but a string \"just text\""]);
    assert!(errors("a: [")[0].starts_with("vm.yaml:"));
    assert!(
        errors("{\"kind\":")[0].starts_with("vm.yaml:1:8: EOF while parsing a value"),
        "{:?}",
        errors("{\"kind\":")
    );
    assert!(errors("kind: Secret\n---\nkind: Service\n")[0].contains("none of its objects is a"));
}

#[test]
fn errors_have_the_files_own_path_and_line() {
    let text = "kind: VirtualMachine\nmetadata: {name: a}\nspec:\n  template:\n    spec:\n      domain:\n        cpu:\n          \
                cores: two\n        memory: {guest: -5Gi}\n        devices:\n          disks:\n          - disk: {}\n";
    assert_eq!(
        errors(text),
        [
            "vm.yaml:8: spec.template.spec.domain.cpu.cores: invalid type: string \"two\", expected an integer",
            "vm.yaml:12: spec.template.spec.domain.devices.disks[0].name: missing: the API server requires it",
        ]
    );
    let negative = text.replace("two", "-2").replace("disk: {}", "name: a");
    let error = &errors(&negative)[0];
    assert!(
        error.starts_with("vm.yaml:8: spec.template.spec.domain.cpu.cores: invalid value: integer `-2`"),
        "{error}"
    );
    let text = Manifest::read(&negative, &Options { file: "", ..options() }).unwrap_err().to_string();
    assert!(text.starts_with("line 8: spec.template.spec.domain.cpu.cores: "), "{text}");
}

#[test]
fn messages_about_the_instance_become_messages_about_the_file() {
    let text = "kind: VirtualMachine\nmetadata: {name: a}\nspec:\n  template:\n    metadata:\n      annotations:\n        \
                kubevirt.io/x.y: b\n    spec:\n      domain:\n        memory: {guest: 1Gi}\n        devices:\n          \
                disks:\n          - name: a\n            disk: {}\n";
    let manifest = read(text).unwrap();
    assert_eq!(
        manifest.located("1 field not supported by x: spec.domain.devices.disks[0].disk: why; see spec.domain."),
        "vm.yaml:14: 1 field not supported by x: spec.template.spec.domain.devices.disks[0].disk: why; see \
         spec.template.spec.domain."
    );
    assert!(
        manifest.located("metadata.annotations.kubevirt.io/x.y: z").starts_with("vm.yaml:7: spec.template.metadata.")
    );
    // A default that is not in the file is reported at the object that it was added to.
    assert!(manifest.located("spec.domain.machine.type: no").starts_with("vm.yaml:9: "));
    assert_eq!(manifest.located("nothing of the sort"), "vm.yaml: nothing of the sort");
    assert_eq!(manifest.located("\"spec.domain\" of libvirt"), "vm.yaml: \"spec.domain\" of libvirt");
}

#[test]
fn names_are_those_that_the_api_server_takes() {
    assert_eq!(
        errors("kind: VirtualMachineInstance\nspec: {domain: {devices: {}}}\n"),
        ["vm.yaml:1: metadata.name: missing: the API server requires it"]
    );
    assert!(errors(&vmi("My_VM"))[0].contains("metadata.name: \"My_VM\" must consist of lower case letters"));
    assert!(errors(&vmi("7"))[0].contains("metadata.name: invalid type: integer `7`, expected a string"));
    let generated = vmi("x").replace("name: x", "generateName: web-");
    assert_eq!(read(&generated).unwrap().vmi.metadata.name, "web");
    let fallback = Options { fallback: Some(("demo", "ns")), ..options() };
    let nameless = vmi("x").replace("name: x", "");
    assert_eq!(Manifest::read(&nameless, &fallback).unwrap().vmi.domain_name(), "ns_demo");
}

#[test]
fn same_file_is_the_same_machine_each_time() {
    let uuid = |text: &str| read(text).unwrap().vmi.spec.domain.firmware.unwrap().uuid;
    assert_eq!(uuid(&vmi("a")), uuid(&vmi("a")));
    assert_ne!(uuid(&vmi("a")), uuid(&vmi("b")));
}

#[test]
fn object_that_is_complete_stays_as_it_is() {
    let text = "{\"kind\": \"VirtualMachineInstance\", \"metadata\": {\"name\": \"a\", \"namespace\": \"b\"}, \
                \"spec\": {\"domain\": {\"devices\": {}}}}";
    let manifest = Manifest::read(text, &Options { is_complete: true, ..options() }).unwrap();
    assert_eq!(manifest.value, serde_json::from_str::<Value>(text).unwrap());
}

#[test]
fn instancetype_is_applied_from_the_file_assumed_or_refused() {
    let vm = "kind: VirtualMachine\nmetadata: {name: a}\nspec:\n  instancetype: {name: u1.big}\n  preference: {name: p}\n  \
              template: {spec: {domain: {devices: {}}}}\n";
    assert!(errors(vm)[0].starts_with("vm.yaml:4: spec.instancetype: \"u1.big\" is looked up in the cluster"));
    let assumed = Manifest::read(vm, &Options { assumes_instancetype: true, ..options() }).unwrap();
    assert_eq!(assumed.value.pointer("/spec/domain/memory/guest").unwrap(), "1Gi");
    let said: Vec<String> = assumed.warning_lines().collect();
    assert!(said[0].contains("assumed 1 vCPU and 1Gi") && said[1].contains("spec.preference: \"p\""), "{said:?}");
    let kind = "---\nkind: VirtualMachineClusterInstancetype\nmetadata: {name: u1.big}\n\
                spec: {cpu: {guest: 4, dedicatedCPUPlacement: true}, memory: {guest: 8Gi, hugepages: {pageSize: 2Mi}}}\n";
    let applied = read(&format!("{vm}{kind}")).unwrap();
    let cpu = applied.vmi.spec.domain.cpu.unwrap();
    assert!(cpu.sockets == 4 && cpu.dedicated_cpu_placement);
    assert_eq!(applied.vmi.spec.domain.memory.unwrap().hugepages.unwrap().page_size, "2Mi");
}
