#!/usr/bin/env python3
"""Makes fields.txt from KubeVirt's API description: python3 fields.py COMMIT < api/openapi-spec/swagger.json > fields.txt

Names, types and which fields are required are facts of the API; descriptions are left out.
"""
import json
import sys

ROOTS = ["v1.VirtualMachine", "v1.VirtualMachineInstance", "v1.VirtualMachineInstanceReplicaSet",
         "v1beta1.VirtualMachinePool"]
PLAIN = {"string": "s", "integer": "i", "boolean": "b", "number": "n"}
SPECIAL = {"Quantity": "q", "IntOrString": "x", "Time": "s", "MicroTime": "s", "Duration": "s", "FieldsV1": "o",
           "RawExtension": "o"}

definitions = json.load(sys.stdin)["definitions"]


def short(name):
    last = name.rsplit(".", 1)[1]
    if name.startswith("k8s.io.api."):
        return "k8s." + last
    if name.startswith("k8s.io.apimachinery."):
        return "meta." + last
    # Of the two groups with a type of one name, KubeVirt's own keeps it.
    version = name.rsplit(".", 2)[-2]
    return "cdi." + last if version == "v1beta1" and f"v1.{last}" in definitions else last


def kind(schema, found):
    if "$ref" in schema:
        name = schema["$ref"].rsplit("/", 1)[1]
        special = SPECIAL.get(name.rsplit(".", 1)[1]) if name.startswith("k8s.io.apimachinery.") else None
        target = definitions[name]
        if special:
            return special
        if "properties" not in target:
            return "o" if target.get("type") in (None, "object") else PLAIN.get(str(target["type"]), "a")
        found.append(name)
        return short(name)
    if schema.get("type") == "array":
        return "[" + kind(schema["items"], found)
    if schema.get("type") == "object":
        return "{" + kind(schema["additionalProperties"], found) if "additionalProperties" in schema else "o"
    # Several types, as text or number.
    return PLAIN.get(schema["type"], "o") if isinstance(schema.get("type"), str) else "a"


lines, names, waiting = {}, {}, list(ROOTS)
while waiting:
    name = waiting.pop()
    if name in lines:
        continue
    if names.setdefault(short(name), name) != name:
        sys.exit(f"{name} and {names[short(name)]} have one short name")
    required = definitions[name].get("required", [])
    fields = []
    for field, schema in sorted(definitions[name]["properties"].items()):
        fields.append(f"{field}{'!' if field in required else ''}:{kind(schema, waiting)}")
    # Of the hypervisors' draft, which that commit does not have yet.
    fields += ["hypervisor:s"] if name == "v1.VirtualMachineInstanceSpec" else []
    lines[name] = " ".join([short(name)] + sorted(fields))
print("# The fields of KubeVirt's virtual machine kinds, from api/openapi-spec/swagger.json of KubeVirt at commit "
      f"{sys.argv[1]}")
print("# by fields.py. TYPE FIELD:KIND…; ! required, s text, i integer, n number, b boolean, q quantity, x integer or")
print("# text, a anything, o any object, [ list of, { map of, else a TYPE.")
print("\n".join(sorted(lines.values())))
