"""Shape the entries of cluster_filesystems for the roles that serve them."""

from typing import Any


def gluster_bricks(filesystem: dict[str, Any], bricks: int, root: str) -> list[str]:
    """List a dispersed volume's bricks as server:path, spread over its servers in turn.

    Fewer servers than bricks is legal here (the virtual cluster has as few as two): some then carry several,
    and losing such a server loses as many bricks.
    """
    servers = filesystem["servers"]
    return [
        f"{servers[number % len(servers)]}:{root}/{filesystem['name']}-{number}" for number in range(bricks)
    ]


def gluster_loss(filesystem: dict[str, Any], bricks: int, redundancy: int) -> str:
    """Say what losing one server would cost: nothing, or the volume until that server is back."""
    servers = filesystem["servers"]
    carried = {server: len(range(number, bricks, len(servers))) for number, server in enumerate(servers)}
    heavy = sorted(server for server, count in carried.items() if count > redundancy)
    layout = f"{bricks - redundancy}+{redundancy} bricks on {len(servers)} servers"
    what = f"{filesystem['mount']} (GlusterFS, {layout})"
    if not heavy:
        return f"{what}: any one server may be lost; reads and writes go on."
    return (
        f"{what}: {', '.join(heavy)} carries more than {redundancy} of the bricks, so without it the file "
        "system stops until it is back; nothing is lost."
    )


class FilterModule:
    """The filters, as Ansible finds them."""

    def filters(self) -> dict[str, Any]:
        """Name them."""
        return {"gluster_bricks": gluster_bricks, "gluster_loss": gluster_loss}
