# shellcheck shell=bash
# Sourced by the scripts that build and run images. Sets root, the repository, and engine, the command for images: docker or
# podman, whichever answers first, else buildah. ENGINE=docker, podman or buildah in the environment chooses one.
#
# buildah needs no daemon. With the vfs driver and chroot isolation it also works in containers and sandboxes that can't mount
# overlays or start an OCI runtime. Its images are in the user's cache.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

answers() { command -v "$1" >/dev/null 2>&1 && "$1" info >/dev/null 2>&1; }

# copy_certificates: prints a new folder with the CA certificates that this machine trusts, to be mounted at /etc/ssl/certs.
# It is a copy because packages write to it.
copy_certificates() {
  local folder bundle=/etc/ssl/certs/ca-certificates.crt
  folder=$(mktemp -d "$cache/certificates.XXXXXX")
  chmod 755 "$folder"
  if [ -e "$bundle" ]; then cp -L "$bundle" "$folder/"; fi
  echo "$folder"
}

if [ -z "${ENGINE:-}" ]; then
  if answers docker; then ENGINE=docker; elif answers podman; then ENGINE=podman; else ENGINE=buildah; fi
fi
export ENGINE
engine=("$ENGINE")
if [ "$ENGINE" = buildah ]; then
  if [ "$(uname -s)" != Linux ]; then
    echo "image: no container engine answers; start Docker or Podman" >&2
    exit 1
  fi
  PATH="$PATH:/usr/sbin:/sbin" # debootstrap's folder, which a user's PATH often lacks
  "$root/scripts/setup.sh" buildah=buildah debootstrap=debootstrap newuidmap=uidmap
  cache="${TORCHHERD_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/torchherd}"
  mkdir -p "$cache"
  # An image's files belong to root and other users. A user namespace lets an unprivileged user own them.
  if [ "$(id -u)" != 0 ]; then exec buildah unshare "$0" "$@"; fi
  export BUILDAH_ISOLATION=chroot
  engine+=(--storage-driver vfs --root "$cache/images" --runroot "$cache/images/run")
fi
