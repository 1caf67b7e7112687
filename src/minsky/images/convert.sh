#!/bin/sh
# rootfs.tar -> image.sif in the current directory, on a host with Apptainer or in the tool container.
# Through a directory, since Apptainer's own docker-archive route unpacks every layer and packs with gzip.
set -eu

trap 'rm -rf rootfs cache' EXIT # written by root in the tool container: whoever called could not remove it
mkdir rootfs
tar -x -f rootfs.tar -C rootfs --anchored --exclude 'dev/*' # only root makes devices; Apptainer brings its own
rm rootfs.tar
apptainer --silent build --mksquashfs-args "$SQUASHFS" image.sif image.def
chmod 644 image.sif
