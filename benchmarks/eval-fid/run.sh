#!/bin/sh
# This suite alone; see ../run.sh for the options. PYTHON must also have pytorch-fid, clean-fid and torchvision.
exec sh "$(dirname "$0")/../run.sh" eval-fid "$@"
