package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/torchherd/torchherd/internal/goldens"
)

// TestChaos disturbs a server in every way at once and keeps a ledger: each request must be answered with its own client's
// image, refused with a reason, or lost by the fault that was done to it. Nothing else may happen to a request, and the
// server must end in order.
//
// Each actor draws its actions from a generator of its own, which CHAOS_SEED and the actor's number seed. So a seed repeats
// what each actor does, though not how the actors interleave. With an even seed the model runs in a process of its own,
// with an odd one only the trials of its versions do; both are killed again and again. `make chaos` runs one seed for
// CHAOS_MINUTES; without them, two run for some seconds.
func TestChaos(t *testing.T) {
	text := os.Getenv("CHAOS_MINUTES")
	if text == "" {
		for _, seed := range []uint64{1, 2} {
			t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
				t.Parallel()
				causeChaos(t, seed, 3*time.Second)
			})
		}
		return
	}
	minutes, err := strconv.ParseFloat(text, 64)
	if err != nil || minutes <= 0 {
		t.Fatalf("CHAOS_MINUTES=%s: must be a number above 0", text)
	}
	seed, err := strconv.ParseUint(os.Getenv("CHAOS_SEED"), 10, 64)
	if err != nil {
		t.Fatalf("CHAOS_SEED: %v", err)
	}
	causeChaos(t, seed, time.Duration(minutes*float64(time.Minute)))
}

func causeChaos(t *testing.T, seed uint64, duration time.Duration) {
	t.Helper()
	c := newChaos(t, seed)
	ctx, cancel := context.WithTimeout(t.Context(), duration)
	defer cancel()
	var actors sync.WaitGroup
	act := func(number int, do func(*rand.Rand)) {
		random := rand.New(rand.NewPCG(seed, uint64(number)))
		actors.Go(func() {
			for ctx.Err() == nil {
				do(random)
			}
		})
	}
	for number := range 8 {
		act(number, c.client)
	}
	for i, disturb := range []func(*rand.Rand){c.swap, c.signal, c.blockLog, c.killModel} {
		act(100+i, disturb)
	}
	actors.Wait()
	c.finish()
}

// chaos is a server under disturbance, and the ledger of its requests.
type chaos struct {
	*process
	t        *testing.T
	isolated bool   // the model runs in a process of its own
	models   string // the folder of the model's versions
	log      *blockableWriter
	bombs    map[string][]byte

	mu     sync.Mutex
	negate map[string]bool // by version: whether it negates its input; else it returns it
	ledger map[string]int  // number of requests by their end
	sent   int
}

func newChaos(t *testing.T, seed uint64) *chaos {
	t.Helper()
	c := &chaos{t: t, isolated: seed%2 == 0, models: filepath.Join(t.TempDir(), "chaos"), negate: map[string]bool{}, ledger: map[string]int{}}
	c.addVersion(1, true)
	c.bombs = map[string][]byte{
		"flat PNG":         bomb(t),
		"large PNG":        flatPNG(t, 8000, 8000, color.White),
		"not an image":     []byte("moo"),
		"empty":            {},
		"truncated JPEG":   photograph(t, "jpeg-large.jpg")[:5000],
		"progressive JPEG": progressiveBomb(4000, 4000, 100),
		"TIFF strips":      sharedStripsBomb(20000, 30000),
		"too large":        make([]byte, 5<<20),
	}
	arguments := []string{"--log-level", "info", "--size", "32x32", "--max-wait", "20ms", "--request-timeout", "20s",
		"--drain-timeout", "30s", "--load-timeout", "10s", "--max-decode-memory", "512MiB", c.models}
	if c.isolated {
		arguments = append(arguments, "--isolate", "--forward-timeout", "2s")
	} else {
		arguments = append(arguments, "--trial")
	}
	command := serveCommand(arguments...)
	lines := newLogLines()
	t.Cleanup(func() { lines.print(t, "warn", "error") })
	c.log = &blockableWriter{to: lines}
	command.Stderr = c.log
	c.process = startCommand(t, command)
	t.Logf("seed %d, process %d", seed, command.Process.Pid)
	return c
}

// addVersion puts a version into the model's folder.
func (c *chaos) addVersion(number int, negate bool) {
	name := map[bool]string{true: "negate.pt", false: "identity.pt"}[negate]
	c.mu.Lock()
	c.negate[strconv.Itoa(number)] = negate
	c.mu.Unlock()
	writeVersion(c.t, c.models, number, goldens.Read(c.t, "modules/"+name))
}

// writeVersion puts a model file into a model's folder in one step.
func writeVersion(t *testing.T, models string, number int, content []byte) {
	t.Helper()
	folder := filepath.Join(models, strconv.Itoa(number))
	part := folder + ".part"
	err := errors.Join(os.MkdirAll(part, 0o700), os.WriteFile(filepath.Join(part, "model.pt"), content, 0o600), os.Rename(part, folder))
	if err != nil {
		t.Error(err)
	}
}

// end records how a request ended.
func (c *chaos) end(how string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sent++
	c.ledger[how]++
}

// client sends one request.
func (c *chaos) client(random *rand.Rand) {
	switch random.IntN(10) {
	case 0:
		c.vanish(random)
	case 1:
		c.readSlowly(random)
	case 2:
		names := slices.Sorted(maps.Keys(c.bombs))
		c.sendBomb(names[random.IntN(len(names))])
	case 3:
		c.sendBadRequest(random)
	default:
		c.sendImage(random)
	}
}

// A tag is a colour by which a client knows its own image.
func newTag(random *rand.Rand) color.NRGBA {
	part := func() uint8 { return uint8(random.UintN(256)) }
	return color.NRGBA{part(), part(), part(), 255}
}

// sendImage sends an image and checks that the response is made of it.
func (c *chaos) sendImage(random *rand.Rand) {
	tag := newTag(random)
	side := 1 + random.IntN(64)
	r, err := c.try(http.MethodPut, "/image?format=png", bytes.NewReader(flatPNG(c.t, side, side, tag)))
	switch {
	case err != nil:
		c.t.Errorf("an image got no response: %v", err)
	case r.status == http.StatusOK:
		c.expectTag(r.body, r.header.Get("X-Model-Version"), tag)
		c.end("answered")
	case r.status == http.StatusServiceUnavailable && r.header.Get("Retry-After") != "":
		c.end("refused")
	case c.isolated && r.status == http.StatusUnprocessableEntity && strings.Contains(string(r.body), "crashes on this image"):
		c.end("lost: the model's process was killed twice during this image")
	default:
		c.t.Errorf("an image got %d %q", r.status, r.body)
	}
}

// expectTag checks that a response is what the version makes of an image of this colour.
func (c *chaos) expectTag(body []byte, version string, tag color.NRGBA) {
	c.mu.Lock()
	negate, known := c.negate[version]
	c.mu.Unlock()
	img, err := png.Decode(bytes.NewReader(body))
	if err != nil || !known {
		c.t.Errorf("version %q responded with something else than a PNG: %v", version, err)
		return
	}
	got := color.NRGBAModel.Convert(img.At(5, 5)).(color.NRGBA)
	if negate {
		got.R, got.G, got.B = 255-got.R, 255-got.G, 255-got.B
	}
	off := func(a, b uint8) bool { return max(a, b)-min(a, b) > 1 } // negating truncates
	if off(got.R, tag.R) || off(got.G, tag.G) || off(got.B, tag.B) {
		c.t.Errorf("version %s: the image of colour %v came back as %v", version, tag, got)
	}
}

// request returns the bytes of a request with an image.
func (c *chaos) request(body []byte) []byte {
	head := fmt.Sprintf("PUT /image?format=png HTTP/1.1\r\nHost: chaos\r\nContent-Length: %d\r\n\r\n", len(body))
	return append([]byte(head), body...)
}

// vanish closes the connection at some point of a request.
func (c *chaos) vanish(random *rand.Rand) {
	data := c.request(flatPNG(c.t, 64, 64, newTag(random)))
	connection, err := net.Dial("tcp", c.address())
	if err != nil {
		c.t.Errorf("a client can't connect: %v", err)
		return
	}
	defer func() { _ = connection.Close() }()
	_, _ = connection.Write(data[:random.IntN(len(data)+1)])
	if random.IntN(2) == 0 { // wait for the first byte of a response, or of nothing
		_ = connection.SetReadDeadline(time.Now().Add(time.Duration(random.IntN(20)) * time.Millisecond))
		_, _ = connection.Read(make([]byte, 1))
	}
	if random.IntN(2) == 0 {
		_ = connection.(*net.TCPConn).SetLinger(0) // a reset instead of an orderly end
	}
	c.end("lost: the client vanished")
}

// readSlowly takes its time to read the response, and then must have all of it.
func (c *chaos) readSlowly(random *rand.Rand) {
	tag := newTag(random)
	connection, err := net.Dial("tcp", c.address())
	if err != nil {
		c.t.Errorf("a client can't connect: %v", err)
		return
	}
	defer func() { _ = connection.Close() }()
	_ = connection.SetDeadline(time.Now().Add(limit))
	request, _ := http.NewRequest(http.MethodPut, c.url+"/image?format=png", bytes.NewReader(flatPNG(c.t, 16, 16, tag)))
	request.Close = true
	if err := request.Write(connection); err != nil {
		c.t.Errorf("a slow reader can't send: %v", err)
		return
	}
	var data []byte
	for buffer := make([]byte, 100); ; {
		n, err := connection.Read(buffer)
		data = append(data, buffer[:n]...)
		if err != nil {
			break
		}
		select {
		case <-time.After(time.Duration(random.IntN(5)) * time.Millisecond):
		case <-c.t.Context().Done():
		}
	}
	head, body, _ := strings.Cut(string(data), "\r\n\r\n")
	switch {
	case strings.HasPrefix(head, "HTTP/1.1 200 "):
		_, version, _ := strings.Cut(head, "X-Model-Version: ")
		version, _, _ = strings.Cut(version, "\r\n")
		c.expectTag([]byte(body), version, tag)
		c.end("answered")
	case strings.HasPrefix(head, "HTTP/1.1 503 "):
		c.end("refused")
	case c.isolated && strings.HasPrefix(head, "HTTP/1.1 422 "):
		c.end("lost: the model's process was killed twice during this image")
	default:
		c.t.Errorf("a slow reader got %.100q", head)
	}
}

// sendBomb sends what costs much to decode, or can't be. The response must be a refusal that blames the client.
func (c *chaos) sendBomb(name string) {
	r, err := c.try(http.MethodPut, "/image?format=png", bytes.NewReader(c.bombs[name]))
	switch {
	case err != nil:
		c.t.Errorf("%s got no response: %v", name, err)
	case r.status == http.StatusOK && strings.HasPrefix(name, "large"): // large, but within the limits
		c.end("answered")
	case r.status >= 400 && r.status < 500 || r.status == http.StatusServiceUnavailable:
		c.end("refused")
	default:
		c.t.Errorf("%s got %d %q", name, r.status, r.body)
	}
}

// sendBadRequest sends a request that no model can answer.
func (c *chaos) sendBadRequest(random *rand.Rand) {
	requests := []struct {
		method, path string
		headers      []string
	}{
		{http.MethodPut, "/nothing", nil},
		{http.MethodDelete, "/image", nil},
		{http.MethodPut, "/image/none", nil},
		{http.MethodPut, "/image/chaos/versions/99999", nil},
		{http.MethodPut, "/image?format=bmp", nil},
		{http.MethodPut, "/image", []string{"X-Request-Timeout", "soon"}},
		{http.MethodPut, "/image", []string{"Content-Type", "multipart/form-data; boundary=x"}},
	}
	bad := requests[random.IntN(len(requests))]
	body := make([]byte, random.IntN(3<<20))
	r, err := c.try(bad.method, bad.path, bytes.NewReader(body), bad.headers...)
	switch {
	case err != nil:
		c.t.Errorf("%s %s with %d bytes got no response: %v", bad.method, bad.path, len(body), err)
	case r.status >= 400 && r.status < 500 || r.status == http.StatusServiceUnavailable:
		c.end("refused")
	default:
		c.t.Errorf("%s %s got %d %q", bad.method, bad.path, r.status, r.body)
	}
}

// swap adds a version, good or broken, or unloads and loads the model.
func (c *chaos) swap(random *rand.Rand) {
	c.mu.Lock()
	next := len(c.negate) + 1
	c.mu.Unlock()
	load := func(want int) {
		r := c.admin.post("/v2/repository/models/chaos/load", "")
		ended := r.status == http.StatusBadRequest // killModel ended or stopped the process that loads or tries it
		if r.status != want && !ended {
			c.t.Errorf("load: got %d %s, want %d", r.status, r.body, want)
		}
	}
	switch random.IntN(6) {
	case 0:
		writeVersion(c.t, c.models, 9000, []byte("not a model"))
		load(http.StatusBadRequest)
		if err := os.RemoveAll(filepath.Join(c.models, "9000")); err != nil {
			c.t.Error(err)
		}
	case 1:
		if r := c.admin.post("/v2/repository/models/chaos/unload", ""); r.status != http.StatusOK {
			c.t.Errorf("unload: got %d %s", r.status, r.body)
		}
		load(http.StatusOK)
	default:
		c.addVersion(next, random.IntN(2) == 0)
		load(http.StatusOK)
	}
}

// signal reloads the server's models, or stops the process for a moment.
func (c *chaos) signal(random *rand.Rand) {
	pause := time.Duration(10+random.IntN(200)) * time.Millisecond
	switch random.IntN(3) {
	case 0:
		c.process.signal(syscall.SIGHUP)
	case 1:
		c.process.signal(syscall.SIGSTOP)
		time.Sleep(pause)
		c.process.signal(syscall.SIGCONT)
	}
	time.Sleep(pause)
}

// blockLog stops reading the server's log for a while.
func (c *chaos) blockLog(random *rand.Rand) {
	time.Sleep(time.Duration(random.IntN(500)) * time.Millisecond)
	c.log.mu.Lock()
	time.Sleep(time.Duration(random.IntN(1000)) * time.Millisecond)
	c.log.mu.Unlock()
}

// killModel ends or stops the processes in which the model runs or is tried.
func (c *chaos) killModel(random *rand.Rand) {
	time.Sleep(time.Duration(200+random.IntN(1500)) * time.Millisecond)
	signals := []syscall.Signal{syscall.SIGKILL, syscall.SIGSEGV, syscall.SIGABRT, syscall.SIGSTOP}
	for _, child := range c.children() {
		_ = syscall.Kill(child, signals[random.IntN(len(signals))]) // it may have ended
	}
}

// children returns the processes that the server has started.
func (c *chaos) children() []int {
	threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", c.command.Process.Pid))
	var children []int
	for _, thread := range threads {
		text, _ := os.ReadFile(thread) // the thread may have ended
		for _, field := range strings.Fields(string(text)) {
			if pid, err := strconv.Atoi(field); err == nil {
				children = append(children, pid)
			}
		}
	}
	return children
}

// A blockableWriter blocks while its mutex is held.
type blockableWriter struct {
	mu sync.Mutex
	to io.Writer
}

func (b *blockableWriter) Write(data []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.to.Write(data)
}

// finish checks that the server still works and ends in order, and prints the ledger.
func (c *chaos) finish() {
	tag := color.NRGBA{10, 200, 90, 255}
	awaitResponse(c.t, func() bool { // the model's process may be starting again
		r := c.do(http.MethodPut, "/image?format=png", bytes.NewReader(flatPNG(c.t, 9, 9, tag)))
		if r.status == http.StatusOK {
			c.expectTag(r.body, r.header.Get("X-Model-Version"), tag)
		}
		return r.status == http.StatusOK
	})
	c.endUnderLoad()
	sum := 0
	for how, count := range c.ledger {
		c.t.Logf("%6d %s", count, how)
		sum += count
	}
	if sum != c.sent || c.ledger["answered"] == 0 || c.ledger["refused"] == 0 {
		c.t.Errorf("%d requests sent, ledger %v", c.sent, c.ledger)
	}
}

// endUnderLoad ends the server while it receives images. Those that it has begun to receive must be answered.
func (c *chaos) endUnderLoad() {
	var uploads []*openUpload
	for range 8 {
		if u := c.beginUpload(); u != nil {
			uploads = append(uploads, u)
		}
	}
	if len(uploads) == 0 {
		c.t.Error("the server received no image when it ended")
	}
	c.process.signal(syscall.SIGTERM)
	for _, u := range uploads {
		c.finishUpload(u)
	}
	if state := c.wait(); state.ExitCode() != 0 {
		c.t.Errorf("the process ended with %v", state)
	}
}

// An openUpload is a request whose body the server has asked for.
type openUpload struct {
	net.Conn
	reader *bufio.Reader
	body   []byte
}

// beginUpload sends the header of a request. It returns nil if the server refused it.
func (c *chaos) beginUpload() *openUpload {
	u := &openUpload{body: flatPNG(c.t, 9, 9, white)}
	var err error
	if u.Conn, err = net.Dial("tcp", c.address()); err != nil {
		c.t.Error(err)
		return nil
	}
	c.t.Cleanup(func() { _ = u.Close() })
	_ = u.SetDeadline(time.Now().Add(limit))
	u.reader = bufio.NewReader(u)
	// The server asks for the body when it has admitted the request.
	_, sent := fmt.Fprintf(u, "PUT /image?format=png HTTP/1.1\r\nHost: chaos\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n", len(u.body))
	line, received := u.reader.ReadString('\n')
	if err := errors.Join(sent, received); err != nil {
		c.t.Error(err)
		return nil
	}
	if !strings.HasPrefix(line, "HTTP/1.1 100 ") {
		c.end("refused")
		return nil
	}
	_, _ = u.reader.ReadString('\n') // a broken response fails in finishUpload
	return u
}

// finishUpload sends the body and checks the response.
func (c *chaos) finishUpload(u *openUpload) {
	_, _ = u.Write(u.body) // a failure shows in the response
	response, err := http.ReadResponse(u.reader, nil)
	if err != nil {
		c.t.Errorf("an image that was being received when the server ended got no response: %v", err)
		return
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	switch {
	case err == nil && response.StatusCode == http.StatusOK:
		c.expectTag(body, response.Header.Get("X-Model-Version"), white)
		c.end("answered")
	case response.StatusCode == http.StatusServiceUnavailable:
		c.end("refused")
	default:
		c.t.Errorf("an image that was being received when the server ended got %d %q: %v", response.StatusCode, body, err)
	}
}

// flatPNG returns a PNG of one colour.
func flatPNG(t testing.TB, width, height int, fill color.Color) []byte {
	t.Helper()
	var file bytes.Buffer
	if err := png.Encode(&file, image.NewPaletted(image.Rect(0, 0, width, height), color.Palette{fill, color.Black})); err != nil {
		t.Error(err)
	}
	return file.Bytes()
}
