"""One box's release: installed, confirmed to be served still, or rolled back."""

from __future__ import annotations

DOCUMENTATION = r"""
module: release
short_description: Installs a bundle of edge-slm on a box, confirms that it is served, or goes back
description:
  - C(present) has C(edge deploy install) check, try out and serve an archive or what a registry holds. If anything
    fails, the box serves what it served before, and the module fails with the reason.
  - C(confirmed) fails where the box does not serve I(release) any more, with what its daemon wrote down.
  - C(rolled_back) serves the release before, or I(release).
  - Check mode says what would be done. For C(present) the box reads signature, release number, room and memory for it,
    and writes nothing.
options:
  home: {description: EDGE_HOME of the box., type: path, required: true}
  edge: {description: The command., type: list, elements: str, default: [edge]}
  state: {description: What is wanted., type: str, choices: [present, confirmed, rolled_back], default: present}
  source: {description: An archive on the box, or registry/name:tag or registry/name@sha256:DIGEST., type: str}
  release: {description: The first digits of a release's name., type: str}
  keep: {description: Releases that stay beside the current and the previous one., type: int, default: 2}
  trusted: {description: A trust file on the box; trust.yaml in its folder where left out., type: path}
  allow_unsigned: {description: Install it whoever made it., type: bool, default: false}
  allow_downgrade: {description: Install it though a newer release has been there., type: bool, default: false}
  plain_http: {description: Talk to the registry without TLS., type: bool, default: false}
  limit_rate: {description: Most bytes a second from the registry, such as 2MiB., type: str}
"""

EXAMPLES = r"""
- edge_slm.boxes.release:
    home: /var/lib/edge-slm
    source: registry.example/support/gateway:1.4.0
"""

RETURN = r"""
release: {description: Name of the release that is served., type: str, returned: always}
previous: {description: Name of the one that was served before., type: str, returned: always}
seconds: {description: Time that the installation took., type: float, returned: changed}
fetched_bytes: {description: Bytes that came from the registry., type: int, returned: changed}
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.edge_slm.boxes.plugins.module_utils.box import OPTIONS, Box, release_in, timed


def present(module, box):
    given = module.params
    if not given["source"]:
        module.fail_json(msg="state: present needs `source`, an archive on the box or registry/name:tag")
    options = ["--keep", str(given["keep"])]
    for name in ("allow_unsigned", "allow_downgrade", "plain_http"):
        if given[name]:
            options.append("--" + name.replace("_", "-"))
    for name in ("trusted", "limit_rate"):
        if given[name]:
            options += ["--" + name.replace("_", "-"), given[name]]
    foreseen = box.must("deploy", "install", given["source"], *options, "--check")
    before = release_in(foreseen["served"])
    if not foreseen["changes"] or module.check_mode:
        release = foreseen["release"] if foreseen["changes"] else before
        module.exit_json(changed=foreseen["changes"], release=release, previous=before)
    seconds, done = timed(box.must, "deploy", "install", given["source"], *options)
    fetched = (done.get("pulled") or {}).get("fetched_bytes", 0)
    module.exit_json(
        changed=True, release=done["name"], previous=before, seconds=seconds, fetched_bytes=fetched, notes=done["notes"]
    )


def confirmed(module, box):
    wanted = module.params["release"]
    if not wanted:
        module.fail_json(msg="state: confirmed needs `release`, the first digits of its name")
    status = box.status()
    found = release_in(status["served"]) or ""
    if not found.startswith(wanted):
        told = box.rollbacks()
        why = f"its daemon went back: {told[-1].get('reason')}" if told else "somebody went back, or installed another"
        module.fail_json(msg=f"the box serves {found[:12] or 'none'} and not {wanted[:12]}: {why}", release=found)
    module.exit_json(changed=False, release=found, previous=release_in(status["previous"]))


def rolled_back(module, box):
    status, wanted = box.status(), module.params["release"]
    found, before = release_in(status["served"]), release_in(status["previous"])
    if wanted and (found or "").startswith(wanted):
        module.exit_json(changed=False, release=found, previous=before)
    if not wanted and status["previous"] is None:
        module.fail_json(msg="there is no release to go back to", release=found)
    if not module.check_mode:
        box.must("rollback", *(["--to", wanted] if wanted else []))
        status = box.status()
        found, before = release_in(status["served"]), release_in(status["previous"])
    module.exit_json(changed=True, release=found, previous=before)


def main():
    module = AnsibleModule(
        argument_spec={
            **OPTIONS,
            "state": {"type": "str", "choices": ["present", "confirmed", "rolled_back"], "default": "present"},
            "source": {"type": "str"},
            "release": {"type": "str"},
            "keep": {"type": "int", "default": 2},
            "trusted": {"type": "path"},
            "allow_unsigned": {"type": "bool", "default": False},
            "allow_downgrade": {"type": "bool", "default": False},
            "plain_http": {"type": "bool", "default": False},
            "limit_rate": {"type": "str"},
        },
        supports_check_mode=True,
    )
    act = {"present": present, "confirmed": confirmed, "rolled_back": rolled_back}[module.params["state"]]
    act(module, Box(module))


if __name__ == "__main__":
    main()
