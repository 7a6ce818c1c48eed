#!/bin/sh
# This suite alone; see ../run.sh for the options. PYTHON must also have transformers.
exec sh "$(dirname "$0")/../run.sh" text "$@"
