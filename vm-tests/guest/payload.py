"""Writes the guest's second disk, a tar file, for each run: it contains csm (from the prefix in the variable CSM), and what the module
generated for a scenario."""

import io
import json
import os
import pathlib
import re
import tarfile

HERE = pathlib.Path(__file__).resolve().parent
WRITTEN = HERE / "written"
SIZE = 64 << 20
CSM = "nix/store/code-server-multi"


def system(generation):
    return f"/nix/store/system-{generation}"


def generations(scenario):
    """The scenario's configuration and its specialisations, as the module generated them, by name."""
    found = {path.stem: path for path in WRITTEN.glob("*.json")}
    return {name: json.loads(found[name].read_text()) for name in sorted(found) if name.split(".")[0] == scenario}


def link(tar, name, target):
    member = tarfile.TarInfo(name)
    member.type = tarfile.SYMTYPE
    member.linkname = target
    tar.addfile(member)


def add_text(tar, name, text):
    member = tarfile.TarInfo(name)
    member.size = len(text.encode())
    member.mode = 0o644
    tar.addfile(member, io.BytesIO(text.encode()))


def owned_by_root(member):
    member.uid = member.gid = 0
    member.uname = member.gname = "root"
    return member


def write(disk, scenario):
    """Writes the tar file into the open file `disk`, and extends that to the size of the guest's second disk."""
    csm = pathlib.Path(os.environ["CSM"])
    with tarfile.open(fileobj=disk, mode="w") as tar:
        tar.add(csm / "bin", arcname=f"{CSM}/bin", filter=owned_by_root)
        tar.add(csm / "share", arcname=f"{CSM}/share", filter=owned_by_root)
        tar.add(WRITTEN / "store", arcname="nix/store", filter=owned_by_root)
        tar.add(HERE / "switch-to-configuration", arcname="nix/store/switch-to-configuration", filter=owned_by_root)
        tar.add(HERE / "minica", arcname="nix/store/minica/bin/minica", filter=owned_by_root)
        made = {"debian", "certificate", "code-server-multi", "code-server-multi-base", "minica", *os.listdir(WRITTEN / "store")}
        every = generations(scenario)
        for package in sorted(store_names(every) - made):
            link(tar, f"nix/store/{package}", "debian")
        for name, generation in every.items():
            lay_out(tar, name, generation)
    if disk.tell() > SIZE:
        raise RuntimeError(f"{disk.tell()} bytes do not fit on the guest's second disk of {SIZE} bytes; raise SIZE in {__file__}")
    disk.truncate(SIZE)
    disk.flush()


def lay_out(tar, name, generation):
    """Writes the system's directory: /etc as links, the accounts, its specialisations, and the program that switches to it."""
    place = system(name).removeprefix("/")
    for target, source in generation["etc"].items():
        link(tar, f"{place}/etc/{target}", source)
    add_text(tar, f"{place}/accounts.json", json.dumps(generation["accounts"]))
    link(tar, f"{place}/bin/switch-to-configuration", "/nix/store/switch-to-configuration")
    link(tar, f"{place}/systemd", "/nix/store/debian")
    scenario, _, specialisation = name.partition(".")
    if specialisation:
        link(tar, f"{system(scenario).removeprefix('/')}/specialisation/{specialisation}", system(name))


def store_names(every):
    """The names of all store paths in the generated files."""
    texts = [path.read_text() for path in (WRITTEN / "store").rglob("*") if path.is_file()]
    texts.append(json.dumps(every))
    return {name for text in texts for name in re.findall(r"/nix/store/([\w.+?=-]*\w)", text)}
