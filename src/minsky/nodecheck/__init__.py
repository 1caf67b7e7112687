"""Whether a node is fit for jobs: the checks behind prolog, HealthCheckProgram, Nagios and smoke tests.

`python -m minsky.nodecheck` runs all of them side by side, each in a process of its own, so that what hangs
is a finding and not a hang. Written for Python 3.9 and PyYAML; the file that `--zipapp` makes has all that
it needs. A check is a function of `checks/`, found there.
"""
