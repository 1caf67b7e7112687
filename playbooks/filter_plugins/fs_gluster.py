"""Shape the entries of cluster_filesystems for the roles that serve them, and read what there is."""

import re
from typing import Any


def gluster_refusals(filesystems: list[dict[str, Any]], bricks: int, redundancy: int) -> list[str]:
    """Say what GlusterFS could not make of its file systems: a sentence each."""
    said = [
        f"File system {entry['name']} of type gluster has no servers, so there is nowhere to put its bricks. "
        "Name them, for instance servers: \"{{ groups['fs_gluster_server'] }}\""
        for entry in filesystems
        if not entry.get("servers")
    ]
    if not 0 < 2 * redundancy < bricks:
        said.append(
            f"fs_gluster_bricks is {bricks} and fs_gluster_redundancy {redundancy}, but GlusterFS wants at "
            "least one brick that may be lost, and more than twice as many in all. Put for instance 3 and 1, "
            "or 6 and 2."
        )
    return said


def gluster_fixed(info: str, filesystems: list[dict[str, Any]], bricks: int, redundancy: int) -> list[str]:
    """Say which volumes of these file systems stand in ``gluster volume info`` with another layout."""
    names = {entry["name"] for entry in filesystems}
    wanted = f"({bricks - redundancy} + {redundancy})"
    return [
        f"Volume {name} is made of {found} bricks, but fs_gluster_bricks and fs_gluster_redundancy ask for "
        f"{wanted}, and both are fixed once the volume exists. Put the old numbers back, or give a new file "
        "system another name and move the files."
        for name, found in re.findall(r"(?s)Volume Name: (\S+).*?Number of Bricks: ([^\n]+)", info)
        if name in names and wanted not in found
    ]


def gluster_absent(servers: list[str], pool: str) -> list[str]:
    """List the servers that ``gluster pool list``, asked on the first of them, does not show as connected."""
    connected = re.findall(r"(?m)^\S+\s+(\S+)\s+Connected\s*$", pool)
    return [server for server in servers[1:] if server not in connected]


def gluster_create(filesystem: dict[str, Any], bricks: int, redundancy: int, root: str) -> list[str]:
    """Words that follow ``gluster volume create``: a dispersed volume, spread over its servers in turn.

    Fewer servers than bricks is legal here (the virtual cluster has as few as two): some then carry several,
    losing such a server loses as many bricks, and GlusterFS, which warns of exactly this, wants force.
    """
    name, servers = filesystem["name"], filesystem["servers"]
    places = [f"{servers[number % len(servers)]}:{root}/{name}-{number}" for number in range(bricks)]
    force = ["force"] if len(servers) < bricks else []
    return [name, "disperse", str(bricks), "redundancy", str(redundancy), *places, *force]


def gluster_loss(info: str, mount: str) -> str:
    """Say, of a dispersed volume's ``gluster volume info``, what losing one server would cost.

    Nothing, or the volume until that server is back.
    """
    [(data, spare)] = [(int(d), int(s)) for d, s in re.findall(r"Number of Bricks: .*\((\d+) \+ (\d+)", info)]
    bricks = re.findall(r"(?m)^Brick\d+: ([^:]+):", info)
    # a volume that was enlarged consists of several such sets
    sets = [bricks[at : at + data + spare] for at in range(0, len(bricks), data + spare)]
    heavy = sorted({server for part in sets for server in part if part.count(server) > spare})
    what = f"{mount} (GlusterFS, {data}+{spare} bricks on {len(set(bricks))} servers)"
    if not heavy:
        return f"{what}: any one server may be lost; reads and writes go on."
    return (
        f"{what}: {', '.join(heavy)} carries more than {spare} of the bricks, so without it the file "
        "system stops until it is back; nothing is lost."
    )


class FilterModule:
    """The filters, as Ansible finds them."""

    def filters(self) -> dict[str, Any]:
        """Name them."""
        return {
            "gluster_refusals": gluster_refusals,
            "gluster_fixed": gluster_fixed,
            "gluster_absent": gluster_absent,
            "gluster_create": gluster_create,
            "gluster_loss": gluster_loss,
        }
