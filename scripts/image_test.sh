#!/usr/bin/env bash
# Tests an image: starts it with a read-only root, sends docs/pictures/before.jpg, and checks the response, the health check,
# the user and, if a limit is given, the size.
#
#   image_test.sh NAME [MAX_BYTES]
#
# Docker and Podman run it as a container. Without an engine it runs by chroot in a mount namespace.
set -euo pipefail
# shellcheck source=scripts/image_engine.sh
. "$(dirname "$0")/image_engine.sh"
command -v curl >/dev/null 2>&1 || "$root/scripts/setup.sh" curl=curl
name=$1 max_bytes=${2:-}
user=65532:65532
patience=120 # seconds until the server is ready; busy machines load slowly

work=$(mktemp -d) container="" server=""
stop() {
  if [ -n "$server" ] && kill "$server"; then wait "$server" || true; fi
  if [ -n "$container" ]; then
    if [ "$ENGINE" != buildah ]; then "${engine[@]}" kill "$container" >/dev/null || true; fi
    "${engine[@]}" rm "$container" >/dev/null
  fi
  rm -rf "$work"
}
trap stop EXIT

fail() {
  echo "image-test: $name: $*" >&2
  if [ "$ENGINE" != buildah ] && [ -n "$container" ]; then "${engine[@]}" logs "$container" >"$work/log" 2>&1; fi
  if [ -e "$work/log" ]; then tail -n 20 "$work/log" >&2; fi
  exit 1
}

inspect() {
  if [ "$ENGINE" = buildah ]; then
    "${engine[@]}" inspect --type image --format "$1" "$name"
  else
    "${engine[@]}" image inspect --format "$1" "$name"
  fi
}
# list KEY: prints the entries of a list in what inspect shows, one a line.
list() { inspect "{{range $1}}{{println .}}{{end}}" | grep .; }

case "$ENGINE" in
  buildah)
    # The sizes of all layers, uncompressed.
    bytes=$(inspect '{{.Manifest}}' | grep -o '"size":[0-9]*' | awk -F : '{ sum += $2 } END { printf "%.0f", sum }')
    mapfile -t health < <(list .Docker.Config.Healthcheck.Test)
    ;;
  podman)
    bytes=$(inspect '{{.Size}}')
    mapfile -t health < <(list .HealthCheck.Test)
    ;;
  docker)
    bytes=$(inspect '{{.Size}}')
    mapfile -t health < <(list .Config.Healthcheck.Test)
    ;;
esac
if [ -n "$max_bytes" ] && [ "$bytes" -gt "$max_bytes" ]; then fail "size is $bytes bytes, the limit is $max_bytes"; fi
[ "${health[0]:-}" = CMD ] || fail "health check is \"${health[*]}\", want a command"

# start runs the image's command with a read-only root and sets address, where the server listens, and pid, the server's
# process as inside sees it. inside COMMAND... runs a command beside the server.
if [ "$ENGINE" = buildah ]; then
  start() {
    local folder environment entrypoint
    container=$("${engine[@]}" from --pull-never "$name")
    folder=$("${engine[@]}" mount "$container")
    mapfile -t environment < <(list .Docker.Config.Env)
    mapfile -t entrypoint < <(list .Docker.Config.Entrypoint)
    address=127.0.0.1:$(python3 -c 'import socket; s = socket.create_server(("127.0.0.1", 0)); print(s.getsockname()[1])')
    confined=(setpriv --no-new-privs chroot --userspec "$(inspect '{{.Docker.Config.User}}')" --groups "" "$folder"
      env --ignore-environment "${environment[@]}" "TORCHHERD_LISTEN=$address" TORCHHERD_ADMIN_LISTEN=off)
    # Each command replaces the one before it, so the server has the process of the first.
    # shellcheck disable=SC2016 # the inner shell expands these
    unshare --mount --propagation private -- sh -euc '
      folder=$1
      shift
      mount --bind "$folder" "$folder"
      mount --options remount,bind,ro,nosuid,nodev "$folder"
      for system in proc sys dev; do mount --rbind "/$system" "$folder/$system"; done
      exec "$@"
    ' sh "$folder" "${confined[@]}" "${entrypoint[@]}" >"$work/log" 2>&1 &
    server=$! pid=$!
  }
  inside() { nsenter --target "$server" --mount -- "${confined[@]}" "$@"; }
  alive() { kill -0 "$server"; }
else
  start() {
    container=$("${engine[@]}" create --read-only --publish 127.0.0.1::8000 "$name")
    "${engine[@]}" start "$container" >/dev/null
    address=$("${engine[@]}" port "$container" 8000/tcp)
    pid=1
  }
  inside() { "${engine[@]}" exec "$container" "$@"; }
  alive() { [ "$("${engine[@]}" inspect --format '{{.State.Running}}' "$container")" = true ]; }
fi

start
begun=$SECONDS
until curl --silent --fail --output "$work/ready" "http://$address/readyz"; do
  alive || fail "the server exited before it was ready"
  [ $((SECONDS - begun)) -lt "$patience" ] || fail "the server was not ready after $patience s"
  sleep 0.2
done
found=$(inside stat --format %u:%g "/proc/$pid")
[ "$found" = "$user" ] || fail "the server runs as $found, want $user"
if inside touch /tmp/file 2>/dev/null; then fail "the root is writable"; fi
inside "${health[@]:1}" >/dev/null || fail "health check failed"

found=$(curl --silent --show-error --upload-file "$root/docs/pictures/before.jpg" --output "$work/response" \
  --write-out '%{http_code} %{content_type}' "http://$address/image")
[ "$found" = "200 image/jpeg" ] || fail "PUT /image gave $found, want 200 image/jpeg"
found=$({ head -c 2 "$work/response" && tail -c 2 "$work/response"; } | od -An -tx1)
[ "$found" = " ff d8 ff d9" ] || fail "the response starts and ends with$found, want ff d8 ff d9 (JPEG)"
echo "image-test: $name passed: $bytes bytes, user $user, healthy, a response of $(wc -c <"$work/response") bytes; $SECONDS s"
