#!/usr/bin/env bash
# Makes a base image, under the name that it has in Docker's registry, for machines that reach no registry.
#
#   image_base.sh debian:SUITE-slim      by debootstrap, from the Debian mirror in this machine's apt sources
#   image_base.sh golang:VERSION-SUITE   the same with a C++ compiler, and Go from this machine or the Go module proxy
set -euo pipefail
export ENGINE=buildah
# shellcheck source=scripts/image_engine.sh
. "$(dirname "$0")/image_engine.sh"
base=$1
tag=${base#*:}

fail() { echo "image: $*" >&2; exit 1; }
# quiet COMMAND...: shows the command's output only if it fails.
quiet() { "$@" >"$work/log" 2>&1 || { tail -n 20 "$work/log" >&2; fail "making $base failed at: $*"; }; }
# inside COMMAND...: runs a command in the container. The base needs no certificates of its own yet to install packages.
inside() { "${engine[@]}" run --volume "$certificates:/etc/ssl/certs" "$container" -- "$@"; }
cleanup() {
  if [ -n "$container" ]; then "${engine[@]}" rm "$container" >/dev/null; fi
  rm -rf "$work" "$certificates"
}

container="" work=$(mktemp -d) certificates=$(copy_certificates)
trap cleanup EXIT
echo "image: making $base from Debian's packages, since it could not be pulled" >&2
case "$base" in
  debian:*-slim)
    suite=${tag%-slim}
    # The URI and codename of each Debian source of this machine, such as "URI bookworm-security".
    # shellcheck disable=SC2016 # apt replaces $(...)
    sources=$(apt-get indextargets --format '$(REPO_URI) $(CODENAME)' 'Created-By: Packages' 'Origin: Debian' 'Component: main')
    codename=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
    mirror=$(awk -v codename="$codename" '$2 == codename { print $1; exit }' <<<"$sources")
    [ -n "$mirror" ] || fail "apt has no list of a Debian mirror for $codename; type:  apt-get update"

    container=$("${engine[@]}" from scratch)
    folder=$("${engine[@]}" mount "$container")
    # debootstrap fails at a path with spaces, hence the link. A user namespace can't create devices; debootstrap does without
    # them only if it is told that it runs in LXC.
    ln -s "$folder" "$work/base"
    quiet env container=lxc debootstrap --variant=minbase "$suite" "$work/base" "$mirror"
    find "$folder/dev" -mindepth 1 -delete
    awk -v codename="$codename" -v suite="$suite" '{ sub("^" codename, suite, $2); print "deb", $1, $2, "main" }' \
      <<<"$sources" >"$folder/etc/apt/sources.list"
    # Debian's slim images have no documentation and no translations, and apt keeps no packages there.
    cat >"$folder/etc/dpkg/dpkg.cfg.d/slim" <<'END'
path-exclude /usr/share/doc/*
path-include /usr/share/doc/*/copyright
path-exclude /usr/share/info/*
path-exclude /usr/share/locale/*
path-exclude /usr/share/man/*
END
    cat >"$folder/etc/apt/apt.conf.d/slim" <<'END'
Acquire::Languages "none";
APT::Keep-Downloaded-Packages "false";
END
    quiet inside sh -c 'apt-get update && apt-get upgrade --yes'
    find "$folder/usr/share/doc" ! -type d ! -name copyright -delete
    find "$folder"/usr/share/{info,locale,man} "$folder"/var/{cache/apt,lib/apt/lists,log} ! -type d -delete
    quiet "${engine[@]}" config --cmd bash "$container"
    ;;
  golang:*-*)
    version=${tag%-*} suite=${tag##*-} debian="debian:${tag##*-}-slim"
    # The go command checks a downloaded Go against the checksum database.
    goroot=$(GOTOOLCHAIN="go$version" go env GOROOT) || fail "the go command can't download Go $version"
    "${engine[@]}" inspect --type image "$debian" >/dev/null 2>&1 || "$0" "$debian"

    container=$("${engine[@]}" from --pull-never "$debian")
    quiet inside sh -c 'apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends \
      ca-certificates g++ gcc git libc6-dev make pkg-config && rm -rf /var/lib/apt/lists/*'
    # Again, since the package wrote to the mounted folder.
    quiet "${engine[@]}" run "$container" -- update-ca-certificates --fresh
    quiet "${engine[@]}" copy "$container" "$goroot" /usr/local/go
    quiet "${engine[@]}" config --cmd bash --workingdir /go --env GOPATH=/go --env GOTOOLCHAIN=local \
      --env PATH=/go/bin:/usr/local/go/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$container"
    found=$("${engine[@]}" run "$container" -- go env GOVERSION)
    [ "$found" = "go$version" ] || fail "$base needs Go $version, but this machine's go command has $found; install Go 1.21 or newer"
    ;;
  *) fail "can't make $base from Debian's packages; use Docker or Podman and a registry" ;;
esac
quiet "${engine[@]}" commit --rm "$container" "$base"
container=""
