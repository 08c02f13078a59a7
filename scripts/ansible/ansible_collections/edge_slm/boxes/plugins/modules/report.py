"""What a box runs and has room for, as facts."""

from __future__ import annotations

DOCUMENTATION = r"""
module: report
short_description: Reads version, releases and memory of a box with edge-slm
description: Sets the fact C(edge_slm). Changes nothing.
options:
  home: {description: EDGE_HOME of the box., type: path, required: true}
  edge: {description: The command., type: list, elements: str, default: [edge]}
"""

RETURN = r"""
ansible_facts:
  description: edge_slm has version, served, previous, release, releases, plan_bytes, budget_bytes, rolled_back.
  type: dict
  returned: always
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.edge_slm.boxes.plugins.module_utils.box import OPTIONS, Box, release_in


def main():
    module = AnsibleModule(argument_spec=OPTIONS, supports_check_mode=True)
    box = Box(module)
    _, version, _ = module.run_command([*module.params["edge"], "--version"])
    status, releases = box.status(), box.must("releases")
    code, plan, said = box.call("plan")  # a box without a bundle has none
    told = box.rollbacks()
    module.exit_json(
        changed=False,
        ansible_facts={
            "edge_slm": {
                "version": version.strip(),
                "served": release_in(status["served"]),
                "previous": release_in(status["previous"]),
                "release": status["release"],
                "releases": releases,
                "plan_bytes": (plan or {}).get("bytes"),
                "budget_bytes": (plan or {}).get("budget_bytes"),
                "plan_refused": None if code == 0 else said,
                "rolled_back": told[-1] if told else None,
            }
        },
    )


if __name__ == "__main__":
    main()
