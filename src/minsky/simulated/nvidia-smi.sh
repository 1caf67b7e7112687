# shellcheck shell=sh
# shellcheck disable=SC2154,SC2329 # the other half assigns variables; functions are called by names in variables
# The second half of the stand-in for nvidia-smi: how it words what it tells. The first, made from a node class, says what
# (minsky.simulated): $class, $driver, $cuda, $gpus, $nics, $lost, $dead, $devices; `tell FIELD` sets $told and $unit, and
# `wiring` sets $cells, $cpus, $numa and $links, both of $gpu. Nothing but the shell is used: some calls have no PATH.
LC_ALL=C # the words of errors are looked at
tab='	'
known='-L, topo -m, nvlink --status, -q, --query-gpu=FIELDS and --query-compute-apps=FIELDS with --format=csv, --version, -h'

refuse() {
  echo "nvidia-smi is simulated here (class $class) and has no answer to $1; it knows $known" >&2
  exit 6
}

each_gpu() { # does $1 for each GPU that is seen, with $gpu and $index
  for pair in $seen; do
    gpu=${pair%:*} index=${pair#*:}
    "$1"
  done
}

heading() {
  tell name && name=$told && tell uuid
  echo "GPU $index: $name (UUID: $told)"
}

nvlinks() {
  wiring
  [ "$links" ] || return 0 # of GPUs without NVLink nothing is said
  heading
  link=0
  for speed in $links; do
    case $speed in inactive) speed='<inactive>' ;; *) speed="$speed GB/s" ;; esac
    echo "$tab Link $link: $speed"
    link=$((link + 1))
  done
}

column() { header="$header${tab}GPU$index"; }

matrix_row() {
  wiring
  row=GPU$index other=0
  for cell in $cells; do
    case "$seen " in *" $other:"*) row="$row$tab$cell" ;; esac
    other=$((other + 1))
  done
  for nic in $nics; do row="$row${tab}SYS"; done
  echo "$row$tab$cpus$tab$numa"
}

far_cell() { row="$row${tab}SYS"; }

matrix() {
  header=
  each_gpu column
  for nic in $nics; do header="$header$tab$nic"; done
  echo "$header${tab}CPU Affinity${tab}NUMA Affinity"
  each_gpu matrix_row
  for nic in $nics; do
    row=$nic
    each_gpu far_cell
    for other in $nics; do
      case $other in "$nic") row="$row$tab X " ;; *) row="$row${tab}PIX" ;; esac
    done
    echo "$row$tab$tab"
  done
  echo "
Legend:

  X    = Self
  SYS  = Connection traversing PCIe as well as the SMP interconnect between NUMA nodes (e.g., QPI/UPI)
  NODE = Connection traversing PCIe as well as the interconnect between PCIe Host Bridges within a NUMA node
  PIX  = Connection traversing at most a single PCIe bridge
  NV#  = Connection traversing a bonded set of # NVLinks

Simulated: all of this, by class $class"
}

rule='+-------------------------------+----------------------+----------------------+'

table_row() {
  tell name && name=$told && tell pci.bus_id && bus=$told && tell memory.total && memory=$told
  tell power.limit && limit=${told%.*} && tell ecc.errors.uncorrected.volatile.total
  if [ ${#name} -gt 18 ]; then name=$(printf '%.15s...' "$name"); fi
  printf '| %3s  %-18s  On   | %16s Off | %20s |\n' "$index" "$name" "$bus" "$told"
  printf '| N/A   33C    P0    31W / %3sW | %20s |      0%%      Default |\n' "$limit" "0MiB / ${memory}MiB"
  printf '|                               |                      | %20s |\n%s\n' N/A "$rule"
}

table() {
  date 2>/dev/null
  bar=-----------------------------------------------------------------------------
  printf '+%s+\n| NVIDIA-SMI %-13sDriver Version: %-13sCUDA Version: %-9s|\n' "$bar" "$driver" "$driver" "$cuda"
  printf '| %-76s|\n' "simulated GPUs of class $class"
  echo '|-------------------------------+----------------------+----------------------+
| GPU  Name        Persistence-M| Bus-Id        Disp.A | Volatile Uncorr. ECC |
| Fan  Temp  Perf  Pwr:Usage/Cap|         Memory-Usage | GPU-Util  Compute M. |
|                               |                      |               MIG M. |
|===============================+======================+======================|'
  each_gpu table_row
  printf '\n+%s+\n| %-76s|\n| %-76s|\n+%s+\n' "$bar" Processes: ' No running processes found' "$bar"
}

line() { # KEY FIELD: a line of the log, the key indented as it should be
  tell "$2"
  printf '%-42s: %s\n' "$1" "$told${unit:+ $unit}"
}

log_of_gpu() {
  tell pci.bus_id
  echo "GPU $told"
  line '    Product Name' name
  line '    Persistence Mode' persistence_mode
  line '    GPU UUID' uuid
  echo '    PCI'
  line '        Bus Id' pci.bus_id
  echo '        GPU Link Info
            Link Width'
  line '                Max' pcie.link.width.max
  line '                Current' pcie.link.width.current
  line '    Performance State' pstate
  echo '    Clocks Throttle Reasons'
  printf '%-42s: %s\n' '        Idle' Active
  echo '    FB Memory Usage'
  line '        Total' memory.total
  line '        Used' memory.used
  line '        Free' memory.free
  line '    Compute Mode' compute_mode
  echo '    Ecc Mode'
  line '        Current' ecc.mode.current
  echo '    ECC Errors
        Volatile
            Double Bit'
  line '                Total' ecc.errors.uncorrected.volatile.total
  echo '    Temperature'
  line '        GPU Current Temp' temperature.gpu
  echo '    Power Readings'
  line '        Power Draw' power.draw
  line '        Power Limit' power.limit
  echo '    Applications Clocks'
  line '        Graphics' clocks.applications.graphics
  line '        Memory' clocks.applications.memory
  printf '%-42s: %s\n\n' '    Processes' None
}

log() {
  printf '\n==============NVSMI LOG==============\n\n'
  printf '%-42s: %s\n' 'Driver Version' "$driver (simulated, class $class)" 'CUDA Version' "$cuda"
  printf '\n%-42s: %s\n' 'Attached GPUs' "$count"
  each_gpu log_of_gpu
}

query_row() {
  row=
  for field in $fields; do
    tell "$field"
    case ,$format, in *,nounits,*) unit= ;; esac
    row="$row, $told${unit:+ $unit}"
  done
  echo "${row#, }"
}

query() {
  gpu=${gpus%% *} index=0 header=
  for field in $fields; do
    if ! tell "$field"; then
      echo "Field \"$field\" is not a valid field to query."
      exit 2
    fi
    header="$header, $field${unit:+ [$unit]}"
  done
  case ,$format, in *,noheader,*) ;; *) echo "${header#, }" ;; esac
  each_gpu "$1"
}

no_row() { :; } # no process is ever on a simulated GPU

fields='' format=''
case $* in
'') show=table ;;
-L | --list-gpus) show='each_gpu heading' ;;
'topo -m' | 'topo --matrix') show=matrix ;;
'nvlink -s' | 'nvlink --status') show='each_gpu nvlinks' ;;
-q | --query) show=log ;;
--version)
  printf '%-20s: %s\n' 'NVIDIA-SMI version' "$driver" 'DRIVER version' "$driver (simulated, class $class)" 'CUDA Version' "$cuda"
  exit
  ;;
-h | --help)
  echo "nvidia-smi, simulated: what it would say on a node of class $class. It knows $known."
  exit
  ;;
*)
  for word; do
    case $word in
    --query-gpu=*) fields=${word#*=} show='query query_row' ;;
    --query-compute-apps=*) fields=${word#*=} show='query no_row' ;;
    --format=csv | --format=csv,*) format=${word#*=} ;;
    *) refuse "$word" ;;
    esac
  done
  if ! [ "$fields" ] || ! [ "$format" ]; then refuse "$*"; fi
  IFS=', '
  set -f
  # shellcheck disable=SC2086 # one by one
  set -- $fields
  unset IFS
  fields=$*
  ;;
esac
if [ -t 2 ]; then # only to people: programs take both streams for the answer
  echo "nvidia-smi: simulated GPUs of class $class" >&2
fi
if [ "$dead" ]; then
  echo "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver." \
    'Make sure that the latest NVIDIA driver is installed and running.'
  exit 9
fi

# The GPUs whose devices may be opened, numbered from 0 as in a real job: " 2:0 3:1". The cgroup of a job forbids the others
# (EPERM); a simulated device that may be opened says that it has no driver (ENXIO).
seen='' count=0 status=0
for gpu in $gpus; do
  if [ -e "$devices/nvidia$gpu" ]; then
    case $( (: <"$devices/nvidia$gpu") 2>&1) in *'not permitted' | *'ermission denied') continue ;; esac
  fi
  if [ "$gpu" = "$lost" ]; then
    tell pci.bus_id
    echo "Unable to determine the device handle for GPU ${told#0000}: GPU is lost.  Reboot the system to recover this GPU"
    status=15
  else
    seen="$seen $gpu:$count"
  fi
  count=$((count + 1))
done
if [ "$count" = 0 ]; then
  echo 'No devices were found'
  exit 6
fi
$show
exit "$status"
