#!/bin/sh
# Ask a question about every new image of a source, and write a line of JSON for each answer:
#
#   sh examples/watch.sh camera "Is the door open?"
#   sh examples/watch.sh rtsp://camera.local/stream "How many people are there?" --every 5
#   sh examples/watch.sh images/ "Describe the picture." --once
#
# Unchanged images are not sent, and questions wait in kept/ while the cloud is away.
set -eu
source=$1
question=$2
shift 2
exec edge-client watch --source "$source" --ask "$question" --on_change --queue kept \
  --bundle aligned_vq/reference/bundle "$@"
