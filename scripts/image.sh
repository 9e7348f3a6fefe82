#!/usr/bin/env bash
# Builds an image by Docker or Podman, or by buildah where no engine answers.
#
#   image.sh DOCKERFILE NAME
#
# Without an engine no registry is needed either: image_base.sh makes the Dockerfile's base images from Debian's packages.
set -euo pipefail
# shellcheck source=scripts/image_engine.sh
. "$(dirname "$0")/image_engine.sh"
dockerfile=$1 name=$2

case "$ENGINE" in
  docker) exec docker build --file "$root/$dockerfile" --tag "$name" "$root" ;;
  # The default format of Podman and buildah has no health check.
  podman) exec podman build --format docker --file "$root/$dockerfile" --tag "$name" "$root" ;;
esac

mapfile -t bases < <(sed -n 's/^FROM \([^ ]*\).*/\1/p' "$root/$dockerfile")
for base in "${bases[@]}"; do
  if ! "${engine[@]}" inspect --type image "$base" >/dev/null 2>&1 && ! "${engine[@]}" pull "$base"; then
    "$root/scripts/image_base.sh" "$base"
  fi
done

certificates=$(copy_certificates)
trap 'rm -rf "$certificates"' EXIT
"${engine[@]}" build --pull-never --format docker --volume "$certificates:/etc/ssl/certs" \
  --file "$root/$dockerfile" --tag "$name" "$root"
"${engine[@]}" rmi --prune >/dev/null # the image that had this name before
echo "image: built $name; to copy it to a file:  $(printf '%q ' "${engine[@]}")push $name docker-archive:FILE:$name"
