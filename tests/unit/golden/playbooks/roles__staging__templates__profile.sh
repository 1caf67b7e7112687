# Where this cluster keeps images, data and jobs; read by jobs/env.sh.
export MINSKY_SHARED=/shared

# At the first login a user gets a copy of the jobs to work on. It is never touched again.
if [ ! -e "$HOME/jobs" ] && [ "$(id -u)" -ne 0 ] && [ -d "$MINSKY_SHARED/jobs" ] && [ -w "$HOME" ]; then
  _minsky_copy=$(mktemp -d "$HOME/.jobs.XXXXXX") &&
    cp -rT "$MINSKY_SHARED/jobs" "$_minsky_copy" && chmod -R u+w "$_minsky_copy" &&
    mv -nT "$_minsky_copy" "$HOME/jobs"
  [ -z "$_minsky_copy" ] || rm -rf "$_minsky_copy"
  unset _minsky_copy
fi
