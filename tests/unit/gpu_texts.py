"""Short recordings, written from the formats of the commands, that the tests of minsky.gpus share."""

MINSKY = """\
\tGPU0\tGPU1\tGPU2\tGPU3\tmlx5_0\tCPU Affinity
GPU0\t X \tNV2\tSOC\tSOC\tSOC\t0-0,8-8
GPU1\tNV2\t X \tSOC\tSOC\tSOC\t0-0,8-8
GPU2\tSOC\tSOC\t X \tNV2\tSOC\t16-16,24-24
GPU3\tSOC\tSOC\tNV2\t X \tSOC\t16-16,24-24
mlx5_0\tSOC\tSOC\tSOC\tSOC\t X \t

Legend:

  X   = Self
  SOC  = Connection traversing PCIe as well as the SMP link between CPU sockets(e.g. QPI)
  NV#  = Connection traversing a bonded set of # NVLinks
"""
MODERN = """\
\t\x1b[4mGPU0\tGPU1\tNIC0\tCPU Affinity\tNUMA Affinity\tGPU NUMA ID\x1b[0m
GPU0\t X \tNV12\tPXB\t0-3,8-11\t0\t\tN/A
GPU1\tNV12\t X \tSYS\t4-7,12-15\t1\t\tN/A
NIC0\tPXB\tSYS\t X \t\t\t\t

Legend:

  X    = Self
  SYS  = Connection traversing PCIe as well as the SMP interconnect between NUMA nodes (e.g., QPI/UPI)
  PXB  = Connection traversing multiple PCIe bridges (without traversing the PCIe Host Bridge)
  NV#  = Connection traversing a bonded set of # NVLinks

NIC Legend:

  NIC0: mlx5_0

"""
ALIGNED = """\
        GPU0    GPU1    CPU Affinity    NUMA Affinity
GPU0     X      NV12    0-63            0,8,252-255
GPU1    NV12     X      64-127          N/A
"""
P2P = """\
 \tGPU0\tGPU1
 GPU0\tX\tOK
 GPU1\tOK\tX

Legend:

  X    = Self
  OK   = Status Ok
  CNS  = Chipset not supported
"""
LISTING = """\
GPU 0: Tesla P100-SXM2-16GB (UUID: GPU-11111111-2222-3333-4444-555555555550)
GPU 1: Tesla P100-SXM2-16GB (UUID: GPU-11111111-2222-3333-4444-555555555551)
"""
MIG = """\
GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-11111111-2222-3333-4444-555555555550)
  MIG 1g.5gb     Device  0: (UUID: MIG-aaaaaaaa-2222-3333-4444-555555555550)
  MIG 2g.10gb    Device  1: (UUID: MIG-GPU-11111111-2222-3333-4444-555555555550/3/0)
"""
QUERY = """\
index, name, uuid, pci.bus_id, memory.total [MiB], power.draw [W]
0, Tesla P100-SXM2-16GB, GPU-11111111-2222-3333-4444-555555555550, 00000002:01:00.0, 16280 MiB, 31.20 W
1, Tesla P100-SXM2-16GB, GPU-11111111-2222-3333-4444-555555555551, 00000003:01:00.0, 16280 MiB, [N/A]
"""
STATUS = """\
GPU 0: Tesla P100-SXM2-16GB (UUID: GPU-11111111-2222-3333-4444-555555555550)
\t Link 0: 19.531 GB/s
\t Link 1: 19.531 GB/s
\t Link 2: <inactive>
\t Link 3: 20 GB/s
GPU 1: Tesla P100-SXM2-16GB (UUID: GPU-11111111-2222-3333-4444-555555555551)
\t Link 0: 19.531 GB/s
\t Link 1: 19.531 GB/s
\t Link 2: 19.531 GB/s
\t Link 3: 19.531 GB/s
"""
COUNTERS = """\
GPU 0: Tesla P100-SXM2-16GB (UUID: GPU-11111111-2222-3333-4444-555555555550)
\t Link 0: Rx1: 0 Kpackets, Tx1: 1680 Kpackets
\t Link 1: Rx1: 0 Kpackets, Tx1: 0 Kpackets
"""
DETAILS = """\
==============NVSMI LOG==============

Driver Version                            : 470.161.03

Attached GPUs                             : 1
GPU 00000002:01:00.0
    Product Name                          : Tesla P100-SXM2-16GB
    GPU UUID                              : GPU-11111111-2222-3333-4444-555555555550
    PCI
        Bus Id                            : 00000002:01:00.0
    FB Memory Usage
        Total                             : 16280 MiB
        Used                              : 0 MiB
    BAR1 Memory Usage
        Total                             : 256 MiB
    Processes                             : None
"""
LSCPU = """\
Architecture:        ppc64le
CPU(s):              16
On-line CPU(s) list: 0-15
Thread(s) per core:  4
Core(s) per socket:  2
Socket(s):           2
NUMA node(s):        3
Model name:          POWER9, altivec supported
NUMA node0 CPU(s):   0-7
NUMA node8 CPU(s):   8-15
NUMA node255 CPU(s):
"""
MASKS = """\
CPU(s):                16
On-line CPU(s) mask:   0x101
Thread(s) per core:    1
Core(s) per socket:    1
Socket(s):             2
NUMA node(s):          2
NUMA node0 CPU(s):     0x1
NUMA node1 CPU(s):     0x100
"""
NUMACTL = """\
available: 3 nodes (0,8,255)
node 0 cpus: 0 1 2 3 4 5
6 7
node 0 size: 257716 MB
node 0 free: 239932 MB
node 8 cpus: 8 9 10 11 12 13 14 15
node 8 size: 261728 MB
node 8 free: 244415 MB
node 255 cpus:
node 255 size: 0 MB
node 255 free: 0 MB
node distances:
node   0   8  255
  0:  10  40  80
  8:  40  10  80
 255:  80  80  10
"""
WHOLE = {
    "topo -m": [MINSKY, MODERN, ALIGNED],
    "-L": [LISTING, MIG],
    "--query-gpu --format=csv": [QUERY],
    "nvlink --status": [STATUS],
    "nvlink -g": [COUNTERS],
    "-q": [DETAILS],
    "lscpu": [LSCPU, MASKS],
    "numactl -H": [NUMACTL],
}
