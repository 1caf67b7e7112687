#!/bin/sh
# rootfs.tar -> image.sif in the current directory, on a host with Apptainer or in the tool container.
# Through a directory, since Apptainer's own docker-archive route unpacks every layer and packs with gzip.
set -eu
umask 022 # the image is for all users, whatever umask the caller has

trap 'rm -rf rootfs cache' EXIT # written by root in the tool container: whoever called could not remove it
mkdir rootfs
tar -x -p -f rootfs.tar -C rootfs --anchored --exclude 'dev/*' # only root makes devices; Apptainer brings its own
rm rootfs.tar
# --force: the definition says of what day the image is, and Apptainer would say today
apptainer --silent build --force --mksquashfs-args "$SQUASHFS" image.sif image.def
chmod 644 image.sif
