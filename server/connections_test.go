package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"mime/multipart"
	"net"
	"net/http"
	"net/textproto"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/torchherd/torchherd/server/internal/cli"
	"github.com/torchherd/torchherd/server/internal/lifecycle"
)

// exchange sends bytes on a connection of their own and returns everything that the server sends until it closes.
func (g target) exchange(request string) (string, error) {
	connection := g.dial()
	if _, err := io.WriteString(connection, request); err != nil {
		return "", err
	}
	text, err := io.ReadAll(connection)
	return string(text), err
}

// stalled are requests whose clients send no more, by the status of the response.
func stalled(photo []byte) map[string]string {
	form := "--X\r\nContent-Disposition: form-data; name=f; filename=a.jpg\r\n\r\n" + string(photo) + "\r\n--X\r\n"
	request := func(line, headers, body string) string {
		return line + " HTTP/1.1\r\nHost: herd\r\n" + headers + "\r\n" + body
	}
	const kind = "Content-Type: multipart/form-data; boundary=X\r\n"
	return map[string]string{
		request("PUT /nothing", "Content-Length: 100000\r\n", ""):                                                  "404",
		request("POST /healthz", "Content-Length: 100000\r\n", ""):                                                 "405",
		request("GET /healthz", "Content-Length: 100\r\n", ""):                                                     "200",
		request("PUT /image?format=bmp", "Content-Length: 100000\r\n", ""):                                         "400",
		request("PUT /image", "Content-Length: 100000\r\nX-Request-Timeout: x\r\n", ""):                            "400",
		request("PUT /image", "Content-Length: 100000\r\n", ""):                                                    "504",
		request("PUT /image/none", "Content-Length: 100000\r\n", "moo"):                                            "404",
		request("PUT /image/none", "Content-Length: 1000\r\nExpect: 100-continue\r\n", ""):                         "404",
		request("PUT /image", fmt.Sprintf("%sContent-Length: %d\r\n", kind, len(form)+1000), form):                 "200",
		request("PUT /image", kind+"Transfer-Encoding: chunked\r\n", fmt.Sprintf("%x\r\n%s\r\n", len(form), form)): "200",
		request("PUT /nothing", "Transfer-Encoding: chunked\r\n", "5\r\nmoo"):                                      "404",
		"PUT /nothing HTTP/1.0\r\nContent-Length: 100000\r\n\r\n":                                                  "404",
		request("PUT /nothing", "Content-Length: 100000\r\nConnection: close\r\n", ""):                             "404",
		request("OPTIONS /image", "Content-Length: 100000\r\n", ""):                                                "204",
	}
}

// A body that doesn't arrive delays neither its response nor, for longer than the time limit, the end of its connection.
func TestStalledBodiesAreGivenUp(t *testing.T) {
	t.Parallel()
	s := start(t, "--request-timeout", "500ms", module("negate.pt"))
	type result struct{ request, text, want string }
	results := make(chan result)
	requests := stalled(photograph(t, "jpeg-small.jpg"))
	for request, status := range requests {
		go func() {
			text, err := s.exchange(request)
			if err != nil {
				t.Errorf("%.60q: %v", request, err)
			}
			results <- result{request, text, status}
		}()
	}
	for range requests {
		r := <-results
		if _, rest, _ := strings.Cut(r.text, " "); !strings.HasPrefix(rest, r.want) || strings.Count(r.text, "HTTP/1.") != 1 {
			t.Errorf("%.60q: got %.60q, want one response with status %s", r.request, r.text, r.want)
		}
	}
	// The admin API has a limit of its own.
	text, err := s.admin.exchange("POST /v2/repository/index HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n")
	if err != nil || !strings.HasPrefix(text, "HTTP/1.1 408 ") {
		t.Errorf("got %q, %v, want 408", text, err)
	}
}

// With the default time limit of a minute, stalled clients keep neither a version nor the server.
func TestStalledClientsHoldNothing(t *testing.T) {
	t.Parallel()
	s := start(t, module("negate.pt"))
	photo := photograph(t, "jpeg-small.jpg")
	for request, status := range stalled(photo) {
		if status == "504" { // its client may still send the image
			continue
		}
		connection := s.dial()
		if got, _ := raw(t, connection, request); !strings.Contains(got, " "+status+" ") {
			t.Errorf("%.60q: got %s, want %s at once", request, got, status)
		}
	}
	expectJSON(t, s.admin.post("/v2/repository/models/negate/unload", ""), 200, `{}`)
	s.awaitState("negate", 1, lifecycle.Unloaded)
	if err := <-s.drain(); err != nil {
		t.Error(err)
	}
}

// Most clients send their whole request before they read, and see a response only if the server has read on until then.
func TestRefusalsArrive(t *testing.T) {
	t.Parallel()
	s := start(t, module("negate.pt"))
	body := string(make([]byte, 5<<20))
	expect := func(path string, length int, status string) {
		for _, head := range []string{"HTTP/1.1\r\nHost: herd\r\nConnection: close", "HTTP/1.0", "HTTP/1.1\r\nHost: herd"} {
			for range 5 {
				connection := s.dial()
				if _, err := fmt.Fprintf(connection, "PUT %s %s\r\nContent-Length: %d\r\n\r\n%s", path, head, length, body[:length]); err != nil {
					t.Fatalf("%s, %q: %v", path, head, err)
				}
				line, err := bufio.NewReader(connection).ReadString('\n')
				if err != nil || !strings.Contains(line, " "+status+" ") {
					t.Errorf("%s, %q: got %q, %v, want %s", path, head, line, err, status)
				}
				_ = connection.Close()
			}
		}
	}
	expect("/image", len(body), "413")
	expect("/nothing", 2<<20, "404")
	expect("/image?format=bmp", 2<<20, "400")
	expectJSON(t, s.admin.post("/v2/repository/models/negate/unload", ""), 200, `{}`)
	expect("/image", 2<<20, "503")
}

// net/http reads ahead, so it can have the header of a request that is refused when the request before is complete. The
// server must still read on after the refusal.
func TestAPipelinedRefusalArrives(t *testing.T) {
	t.Parallel()
	const rest = 3 << 20
	s := start(t, module("negate.pt"))
	connection := s.dial()
	first := "DELETE /image HTTP/1.1\r\nHost: herd\r\nContent-Length: 10\r\n\r\n0123456789"
	second := fmt.Sprintf("DELETE /image HTTP/1.1\r\nHost: herd\r\nContent-Length: %d\r\n\r\n", rest)
	if _, err := io.WriteString(connection, first+second); err != nil {
		t.Fatal(err)
	}
	responses := bufio.NewReader(connection)
	for range 2 {
		r, err := http.ReadResponse(responses, nil)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, r.Body)
		_ = r.Body.Close()
		if r.StatusCode != http.StatusMethodNotAllowed {
			t.Errorf("got %d, want 405", r.StatusCode)
		}
	}
	if _, err := responses.ReadByte(); !errors.Is(err, io.EOF) {
		t.Errorf("got %v, want the end of the server's side", err)
	}
	// Several writes, since the reset that a closed socket sends reaches the client after the first.
	for range rest >> 16 {
		if _, err := connection.Write(make([]byte, 1<<16)); err != nil {
			t.Fatalf("the rest of the body can't be sent: %v", err)
		}
	}
}

// The HTTP clients of three languages and curl, each with a connection for one request and with one that is kept.
func TestClientsSeeRefusals(t *testing.T) {
	t.Parallel()
	s := start(t, module("negate.pt"))
	const count, size = 10, 5 << 20
	file := filepath.Join(t.TempDir(), "large")
	if err := os.WriteFile(file, make([]byte, size), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, command := range map[string][]string{
		"curl": {"sh", "-c", `for i in $(seq ` + fmt.Sprint(count) + `); do curl -s -o /dev/null -w '%{http_code} ' -H 'Expect:' -T "$1" "http://$0/image"; done`},
		"python3": {"python3", "-c", `
import http.client, sys
for i in range(` + fmt.Sprint(count) + `):
    c = http.client.HTTPConnection(sys.argv[1], timeout=60)
    c.request("PUT", "/image", open(sys.argv[2], "rb").read(), {"Connection": ("close", "keep-alive")[i % 2]})
    r = c.getresponse(); r.read(); print(r.status, end=" ")`},
		"node": {"node", "-e", `
const http = require("http"), [address, file] = process.argv.slice(1), body = require("fs").readFileSync(file);
const [host, port] = address.split(":"), kept = new http.Agent({keepAlive: true});
const next = i => i < ` + fmt.Sprint(count) + ` && http.request({host, port, path: "/image", method: "PUT", agent: i % 2 ? kept : false,
  headers: {"Content-Length": body.length}}, r => { r.resume(); r.on("end", () => { process.stdout.write(r.statusCode + " "); next(i + 1); }); })
  .on("error", e => { process.stdout.write(e.code + " "); next(i + 1); }).end(body);
next(0);`},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := exec.LookPath(name); err != nil {
				t.Skip(err)
			}
			out, err := exec.CommandContext(t.Context(), command[0], append(command[1:], s.address(), file)...).CombinedOutput()
			if want := strings.Repeat("413 ", count); err != nil || string(out) != want {
				t.Errorf("got %s, %v, want %s", out, err, want)
			}
		})
	}
	for _, closes := range []bool{true, false} {
		own := &http.Client{Transport: &http.Transport{DisableKeepAlives: closes}}
		for range count {
			request, err := http.NewRequestWithContext(t.Context(), http.MethodPut, s.url+"/image", bytes.NewReader(make([]byte, size)))
			if err != nil {
				t.Fatal(err)
			}
			r, err := own.Do(request)
			if err != nil {
				t.Errorf("Go, closing = %v: %v", closes, err)
				continue
			}
			_ = r.Body.Close()
			if r.StatusCode != http.StatusRequestEntityTooLarge {
				t.Errorf("Go, closing = %v: status = %d, want 413", closes, r.StatusCode)
			}
		}
		own.CloseIdleConnections()
	}
}

// A refusal of a short body keeps its connection: the next request follows on it.
func TestAShortRestKeepsItsConnection(t *testing.T) {
	t.Parallel()
	s := start(t, module("negate.pt"))
	photo := photograph(t, "jpeg-small.jpg")
	connection := s.dial()
	rest := bufio.NewReader(connection)
	for _, want := range []struct {
		path   string
		status int
	}{{"/nothing", 404}, {"/image", 200}, {"/image?format=bmp", 400}, {"/image", 200}} {
		// The client waits for the response before it sends the body of a refused request.
		head := fmt.Sprintf("PUT %s HTTP/1.1\r\nHost: herd\r\nContent-Length: %d\r\n\r\n", want.path, len(photo))
		if want.status == 200 {
			head += string(photo)
		}
		if _, err := io.WriteString(connection, head); err != nil {
			t.Fatal(err)
		}
		r, err := http.ReadResponse(rest, nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			t.Fatal(err)
		}
		_ = r.Body.Close()
		if r.StatusCode != want.status || r.Close {
			t.Errorf("%s: status = %d, close = %v, want %d and a kept connection", want.path, r.StatusCode, r.Close, want.status)
		}
		if want.status != 200 {
			if _, err := connection.Write(photo); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func TestMethods(t *testing.T) {
	t.Parallel()
	s := start(t, module("negate.pt"))
	const image, health = "PUT, POST, OPTIONS", "GET, HEAD, OPTIONS"
	expect := func(method, path string, status int, allow string) {
		t.Helper()
		if r := s.do(method, path, nil); r.status != status || r.header.Get("Allow") != allow {
			t.Errorf("%s %s: got %d, Allow %q, want %d, %q", method, path, r.status, r.header.Get("Allow"), status, allow)
		}
	}
	for _, path := range []string{"/healthz", "/readyz"} {
		expect("HEAD", path, 200, "")
		expect("OPTIONS", path, 200, "")
		expect("POST", path, 405, health)
		expect("BREW", path, 405, health)
	}
	expectError(t, s.do("PUT", "/healthz", nil), 405, "GET or HEAD")
	for _, path := range []string{"/image", "/image/negate", "/image/negate/versions/1"} {
		expect("OPTIONS", path, 204, image)
		expect("GET", path, 405, image)
		expect("DELETE", path, 405, image)
	}
	expect("OPTIONS", "/", 404, "")
	expectJSON(t, s.admin.post("/v2/repository/models/negate/unload", ""), 200, `{}`)
	for _, method := range []string{"GET", "HEAD", "OPTIONS"} {
		expect(method, "/readyz", 503, "")
		expect(method, "/healthz", 200, "")
	}
	// HAProxy's oldest check is "OPTIONS * HTTP/1.0".
	if text, err := s.exchange("OPTIONS * HTTP/1.0\r\n\r\n"); err != nil || !strings.Contains(text, " 404 ") {
		t.Errorf("OPTIONS *: got %q, %v, want 404", text, err)
	}
}

// socat and nc -N close their sending half after the request.
func TestAHalfClosedClientOfOneRequestIsAnswered(t *testing.T) {
	t.Parallel()
	s := start(t, "--wait-policy", "fixed", "--max-wait", "200ms", module("negate.pt"))
	photo := photograph(t, "jpeg-small.jpg")
	for _, head := range []string{"HTTP/1.1\r\nHost: herd\r\nConnection: close", "HTTP/1.0"} {
		connection := s.dial()
		if _, err := fmt.Fprintf(connection, "PUT /image %s\r\nContent-Length: %d\r\n\r\n%s", head, len(photo), photo); err != nil {
			t.Fatal(err)
		}
		if err := connection.(*net.TCPConn).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(connection)
		if err != nil || !strings.Contains(string(text[:min(len(text), 20)]), " 200 OK") {
			t.Errorf("%q: got %.40q, %v, want an image", head, text, err)
		}
	}
}

// A reset connection can't be answered, so its image leaves the queue.
func TestAResetClientOfOneRequestHasGone(t *testing.T) {
	t.Parallel()
	s := start(t, "--wait-policy", "fixed", "--max-wait", "1h", "--request-timeout", "0", module("negate.pt"))
	photo := photograph(t, "jpeg-small.jpg")
	connection := s.dial()
	if _, err := fmt.Fprintf(connection, "PUT /image HTTP/1.0\r\nX-Request-Id: reset\r\nContent-Length: %d\r\n\r\n%s", len(photo), photo); err != nil {
		t.Fatal(err)
	}
	if err := connection.(*net.TCPConn).SetLinger(0); err != nil {
		t.Fatal(err)
	}
	if err := connection.Close(); err != nil {
		t.Fatal(err)
	}
	// If the reset came while the body was being read, the status is 400.
	if line := s.log.await(t, "request_id", "reset", "status", nil); line["status"] != 499.0 && line["status"] != 400.0 {
		t.Errorf("logged %v, want status 499", line)
	}
}

// The image of a form is found by its filename, by its Content-Type or by its bytes, also after fields of text.
func TestFormsWithoutAFilename(t *testing.T) {
	t.Parallel()
	s := start(t, module("negate.pt"))
	photo := photograph(t, "jpeg-small.jpg")
	plain := s.put(photo)
	for _, test := range []struct{ name, disposition, kind string }{
		{"Content-Type", `form-data; name="f"`, "image/jpeg"},
		{"bytes", `form-data; name="f"`, ""},
		{"wrong Content-Type", `form-data; name="f"`, "text/plain"},
		{"filename", `form-data; name="f"; filename="a.txt"`, "text/plain"},
	} {
		var form bytes.Buffer
		writer := multipart.NewWriter(&form)
		for _, field := range []string{"", "a field of text", `{"json": true}`} {
			if err := writer.WriteField("text", field); err != nil {
				t.Fatal(err)
			}
		}
		header := textproto.MIMEHeader{"Content-Disposition": {test.disposition}}
		if test.kind != "" {
			header.Set("Content-Type", test.kind)
		}
		part, err := writer.CreatePart(header)
		if err == nil {
			_, err = part.Write(photo)
		}
		if err == nil {
			err = writer.Close()
		}
		if err != nil {
			t.Fatal(err)
		}
		r := s.do(http.MethodPost, "/image", &form, "Content-Type", writer.FormDataContentType())
		if r.status != 200 || !bytes.Equal(r.body, plain.body) {
			t.Errorf("%s: got %d %.60q, want 200 and the image", test.name, r.status, r.body)
		}
	}
	text := "--x\r\nContent-Disposition: form-data; name=a\r\n\r\nmoo\r\n--x--\r\n"
	expectError(t, s.do(http.MethodPost, "/image", strings.NewReader(text), "Content-Type", "multipart/form-data; boundary=x"), 400, "the form has no file")
}

// What browsers and clients send as Accept gets the model's format, and a client that asks for another one gets that.
func TestAcceptOfRealClients(t *testing.T) {
	t.Parallel()
	s := start(t, "--size", "8x8", module("negate.pt"))
	photo := photograph(t, "jpeg-small.jpg")
	for client, test := range map[string]struct{ accept, want string }{
		"Chrome, page":   {"text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,image/apng,*/*;q=0.8,application/signed-exchange;v=b3;q=0.7", "image/jpeg"},
		"Chrome, img":    {"image/avif,image/webp,image/apng,image/svg+xml,image/*,*/*;q=0.8", "image/jpeg"},
		"Firefox, page":  {"text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,image/png,image/svg+xml,*/*;q=0.8", "image/jpeg"},
		"Firefox, img":   {"image/avif,image/webp,image/png,image/svg+xml,image/*;q=0.8,*/*;q=0.5", "image/jpeg"},
		"Firefox 65":     {"image/webp,*/*", "image/jpeg"},
		"Safari, img":    {"image/webp,image/avif,image/jxl,image/heic,image/heic-sequence,video/*;q=0.8,image/png,image/svg+xml,image/*;q=0.8,*/*;q=0.5", "image/jpeg"},
		"fetch, curl":    {"*/*", "image/jpeg"},
		"httpie":         {"application/json, */*;q=0.5", "image/jpeg"},
		"curl -H, WebP":  {"image/webp", "image/webp"},
		"curl -H, PNG":   {"image/png", "image/png"},
		"WebP or JPEG":   {"image/webp, image/jpeg", "image/jpeg"},
		"rather WebP":    {"image/webp, image/jpeg;q=0.5, */*;q=0.1", "image/webp"},
		"anything else":  {"image/jpeg;q=0, */*", "image/png"},
		"never anything": {"*/*;q=0, image/webp", "image/webp"},
	} {
		if r := s.put(photo, "Accept", test.accept); r.header.Get("Content-Type") != test.want {
			t.Errorf("%s: got %d, %s, want %s", client, r.status, r.header.Get("Content-Type"), test.want)
		}
	}
}

func TestUnixSockets(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	images, admin := "unix:"+filepath.Join(dir, "images"), "unix:"+filepath.Join(dir, "admin")
	s := start(t, "--listen", images, "--admin-listen", admin, module("negate.pt"))
	if s.app.Ready().Address != images || s.app.Ready().AdminAddress != admin {
		t.Errorf("got %+v, want the sockets' addresses", s.app.Ready())
	}
	s.log.await(t, "address", images)
	run := func(want string, arguments ...string) {
		t.Helper()
		var out bytes.Buffer
		if status := cli.Run("test", arguments, &out, &out); status != 0 || !strings.Contains(out.String(), want) {
			t.Errorf("%v: got status %d, output %q, want 0 and %q", arguments, status, out.String(), want)
		}
	}
	run("ready", "health", "--listen", images)
	run("negate", "models", "list", "--admin-listen", admin)
	run("", "models", "load", "negate", "--admin-listen", admin)
	var out bytes.Buffer
	_ = cli.Run("test", []string{"bench", "--quiet", "--requests", "1", "--clients", "1", "--warm-up", "0s", "http://" + images + ":/image"}, &out, &out)
	if !strings.Contains(out.String(), "1 good, 0 failed") { // the status says whether the machine was busy
		t.Errorf("bench: got %s, want a good response", out.String())
	}
	if err := <-s.drain(); err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("got %v, %v, want no socket after the stop", left, err)
	}
}

// HTTP_PROXY is for other machines.
func TestCommandsUseNoProxy(t *testing.T) {
	t.Parallel()
	name, address := loopbackName(t)
	s := start(t, "--listen", net.JoinHostPort(address, "0"), "--admin-listen", net.JoinHostPort(address, "0"), "--admin-hosts", name, module("negate.pt"))
	named := func(address string) string {
		_, port, _ := net.SplitHostPort(address)
		return net.JoinHostPort(name, port)
	}
	for _, arguments := range [][]string{
		{"health", "--listen", named(s.app.Addr())},
		{"models", "list", "--admin-listen", named(s.app.AdminAddr())},
	} {
		command := exec.CommandContext(t.Context(), os.Args[0], arguments...)
		command.Env = append(os.Environ(), beTheCommand+"=1", "HTTP_PROXY=http://127.0.0.1:9", "http_proxy=http://127.0.0.1:9")
		if out, err := command.CombinedOutput(); err != nil {
			t.Errorf("%v: %v, %s", arguments, err, out)
		}
	}
}

// loopbackName returns a name of a loopback address for which net/http would use a proxy, as it does not for localhost, and
// the address.
func loopbackName(t *testing.T) (name, address string) {
	t.Helper()
	own, _ := os.Hostname()
	for _, name := range []string{own, "ip6-localhost", "ip6-loopback", "localhost.localdomain"} {
		addresses, err := net.DefaultResolver.LookupHost(t.Context(), name)
		if err != nil || len(addresses) != 1 || !net.ParseIP(addresses[0]).IsLoopback() {
			continue
		}
		if l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", net.JoinHostPort(addresses[0], "0")); err == nil {
			_ = l.Close()
			return name, addresses[0]
		}
	}
	t.Skip("no name but localhost stands for a loopback address")
	return "", ""
}
