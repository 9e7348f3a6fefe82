package main

import (
	"bytes"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
)

// These tests put Debian's nginx and HAProxy before servers. They skip where the programs aren't installed: `make test`
// installs them (scripts/setup.sh nginx=nginx-light haproxy=haproxy).

// freeAddress returns an address of this machine at which nobody listens.
func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}

// startListening starts a program that listens at an address, until the test ends, and returns when it accepts connections.
func startListening(t *testing.T, address string, program string, arguments ...string) target {
	t.Helper()
	command := exec.Command(program, arguments...)
	var out bytes.Buffer
	command.Stdout, command.Stderr = &out, &out
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		_ = command.Wait()
		close(ended)
	}()
	t.Cleanup(func() {
		_ = command.Process.Signal(terminate)
		<-ended
		if t.Failed() {
			t.Logf("%s: %s", program, out.Bytes())
		}
	})
	listens := poll(func() bool {
		select {
		case <-ended:
			t.Fatalf("%s has ended: %s", program, out.Bytes())
		default:
		}
		connection, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", address)
		return err == nil && connection.Close() == nil
	})
	if !listens {
		t.Fatalf("%s doesn't listen", program)
	}
	return target{t, "http://" + address}
}

// program returns the path of a program, which may be for the administrator. It skips the test if there is none.
func program(t *testing.T, name string) string {
	t.Helper()
	for _, candidate := range []string{name, "/usr/sbin/" + name} {
		if path, err := exec.LookPath(candidate); err == nil {
			return path
		}
	}
	t.Skipf("%s isn't installed", name)
	return ""
}

// nginx starts nginx with this configuration of its module http.
func nginx(t *testing.T, configuration string) target {
	t.Helper()
	path, dir, address := program(t, "nginx"), t.TempDir(), freeAddress(t)
	user := ""
	if os.Getuid() == 0 {
		user = "user root;"
	}
	text := fmt.Sprintf(`%s worker_processes 1; daemon off; pid %[2]s/pid; error_log stderr error;
events { worker_connections 256; }
http {
  access_log off; client_max_body_size 64m;
  client_body_temp_path %[2]s/body; proxy_temp_path %[2]s/proxy; fastcgi_temp_path %[2]s/f; uwsgi_temp_path %[2]s/u; scgi_temp_path %[2]s/s;
  %[3]s
  server { listen %[4]s; location / { proxy_pass http://servers; } }
}`, user, dir, configuration, address)
	file := filepath.Join(dir, "nginx.conf")
	for name, content := range map[string]string{file: text} {
		if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return startListening(t, address, path, "-p", dir, "-c", file)
}

// haproxy starts HAProxy with these lines of its backend.
func haproxy(t *testing.T, backend string) target {
	t.Helper()
	path, address := program(t, "haproxy"), freeAddress(t)
	file := filepath.Join(t.TempDir(), "haproxy.cfg")
	text := fmt.Sprintf(`
defaults
  mode http
  timeout connect 5s
  timeout client 60s
  timeout server 60s
frontend images
  bind %s
  default_backend servers
backend servers
%s
`, address, backend)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return startListening(t, address, path, "-db", "-f", file)
}

// By default nginx speaks HTTP/1.0 to a server, sends the whole request, and answers 502 if it loses the response.
func TestRefusalsPassThroughNginx(t *testing.T) {
	t.Parallel()
	s := start(t, module("negate.pt"))
	for name, location := range map[string]string{
		"plain":      "",
		"keep-alive": `proxy_http_version 1.1; proxy_set_header Connection "";`,
		"unbuffered": `proxy_http_version 1.1; proxy_set_header Connection ""; proxy_request_buffering off;`,
	} {
		proxy := nginx(t, location+" upstream servers { server "+s.address()+"; keepalive 4; }")
		for range 10 {
			for path, want := range map[string]struct{ size, status int }{
				"/image": {5 << 20, 413}, "/nothing": {2 << 20, 404}, "/image?format=bmp": {2 << 20, 400},
			} {
				// nginx may close a client's connection after an early response, so it isn't used again.
				if r := proxy.do(http.MethodPut, path, bytes.NewReader(make([]byte, want.size)), "Connection", "close"); r.status != want.status {
					t.Errorf("%s, %s: status = %d, want %d", name, path, r.status, want.status)
				}
			}
			expectImage(t, proxy.put(photograph(t, "jpeg-small.jpg")))
		}
	}
	expectJSON(t, s.admin.post("/v2/repository/models/negate/unload", ""), 200, `{}`)
	proxy := nginx(t, "upstream servers { server "+s.address()+"; }")
	for range 10 {
		if r := proxy.do(http.MethodPut, "/image", bytes.NewReader(make([]byte, 2<<20))); r.status != 503 {
			t.Errorf("status = %d, want 503", r.status)
		}
	}
}

// Two servers restart in turn while clients send images through a proxy that keeps its connections. No request fails.
func TestRollingRestart(t *testing.T) {
	t.Parallel()
	proxies := map[string]func(t *testing.T, first, second string) target{
		"nginx": func(t *testing.T, first, second string) target {
			return nginx(t, `proxy_http_version 1.1; proxy_set_header Connection ""; proxy_next_upstream error timeout http_503;
  upstream servers { server `+first+` fail_timeout=1s; server `+second+` fail_timeout=1s; keepalive 8; }`)
		},
		"haproxy": func(t *testing.T, first, second string) target {
			return haproxy(t, `  option httpchk GET /readyz
  option redispatch
  http-reuse always
  retry-on conn-failure empty-response
  default-server check inter 50ms fall 1 rise 1
  server first `+first+`
  server second `+second)
		},
	}
	for name, proxy := range proxies {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			program(t, name)
			addresses := []string{freeAddress(t), freeAddress(t)}
			launch := func(i int) *process {
				return startProcess(t, "--listen", addresses[i], "--drain-delay", "500ms", "--max-queue-size", "64", module("negate.pt"))
			}
			servers := []*process{launch(0), launch(1)}
			through := proxy(t, addresses[0], addresses[1])
			photo := photograph(t, "jpeg-small.jpg")
			awaitResponse(t, func() bool { return through.put(photo).status == 200 }) // until its checks have passed

			var clients sync.WaitGroup
			stop, sent := make(chan struct{}), make([]int, 4)
			for i := range sent {
				clients.Go(func() {
					for {
						select {
						case <-stop:
							return
						default:
						}
						r, err := through.try(http.MethodPut, "/image", bytes.NewReader(photo))
						if err != nil || r.status != 200 {
							t.Errorf("got %d %q, %v, want 200", r.status, r.body, err)
							return
						}
						sent[i]++
					}
				})
			}
			for i := range servers {
				servers[i].signal(terminate)
				if state := servers[i].wait(); state.ExitCode() != 0 {
					t.Errorf("got %v, want exit status 0", state)
				}
				servers[i] = launch(i)
				// The other one restarts when the proxy uses this one again.
				servers[i].log.awaitCount(t, 3, "path", "/image", "status", 200.0)
			}
			close(stop)
			clients.Wait()
			for i, count := range sent {
				if count < 5 {
					t.Errorf("client %d has sent %d images, want at least 5 to have met the restarts", i, count)
				}
			}
		})
	}
}
