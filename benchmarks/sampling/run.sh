#!/bin/sh
# This suite alone; see ../run.sh for the options.
exec sh "$(dirname "$0")/../run.sh" sampling "$@"
