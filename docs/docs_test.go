// Package docs tests the documentation: links lead somewhere, paths, make targets and flags exist, and commands run.
//
// Every block of shell commands has a mark, an HTML comment on the line above it:
//
//	<!-- run -->              TestCommands runs it beside a server
//	<!-- run: serve -->       the same; its last line is the server
//	<!-- run by PATH -->      the test or script at this path runs it
//	<!-- not run: REASON -->  nothing runs it
package docs

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
	"unicode"
)

// root is the repository, seen from this folder.
const root = ".."

// timeLimit bounds each program that a test starts.
const timeLimit = 2 * time.Minute

// A page is a Markdown file.
type page struct {
	path   string // in the repository, with slashes
	prose  string // its text without the lines of code blocks, which are empty
	blocks []block
}

// A block is a fenced code block.
type block struct {
	line     int    // of its opening fence, from 1
	language string // after the fence; may be empty
	mark     string // the comment on the line above; may be empty
	text     string
}

// shell reports whether the block is one of commands.
func (b block) shell() bool { return b.language == "sh" }

// tracked returns the paths of all files in the repository, and those of their folders.
var tracked = sync.OnceValues(func() (map[string]bool, error) {
	if _, err := os.Stat(filepath.Join(root, ".git")); err != nil {
		return nil, err
	}
	// safe.directory: the clone may belong to another user.
	out, err := exec.Command("git", "-c", "safe.directory=*", "-C", root, "ls-files", "-z").Output()
	if err != nil {
		return nil, fmt.Errorf("git ls-files: %w", err)
	}
	paths := map[string]bool{}
	for _, name := range strings.Split(strings.TrimRight(string(out), "\x00"), "\x00") {
		for ; name != "."; name = path.Dir(name) {
			paths[name] = true
		}
	}
	return paths, nil
})

func trackedPaths(t *testing.T) map[string]bool {
	t.Helper()
	paths, err := tracked()
	if errors.Is(err, fs.ErrNotExist) {
		t.Skip("this isn't a git checkout, so the documentation's files are unknown")
	}
	if err != nil {
		t.Fatal(err)
	}
	return paths
}

// pages returns all Markdown files of the repository.
func pages(t *testing.T) []page {
	t.Helper()
	var found []page
	for name := range trackedPaths(t) {
		if path.Ext(name) != ".md" {
			continue
		}
		text, err := os.ReadFile(filepath.Join(root, filepath.FromSlash(name)))
		if err != nil {
			t.Fatal(err)
		}
		found = append(found, parse(name, string(text)))
	}
	slices.SortFunc(found, func(a, b page) int { return cmp.Compare(a.path, b.path) })
	if len(found) < 20 {
		t.Fatalf("found %d Markdown files, want at least 20", len(found))
	}
	return found
}

var comment = regexp.MustCompile(`^<!-- (.*) -->$`)

// parse separates prose from code blocks.
func parse(name, text string) page {
	lines := strings.Split(text, "\n")
	p, open := page{path: name}, false
	for i, line := range lines {
		language, fence := strings.CutPrefix(strings.TrimLeft(line, " "), "```")
		switch {
		case fence && !open:
			b := block{line: i + 1, language: language}
			if m := comment.FindStringSubmatch(lines[max(i-1, 0)]); m != nil {
				b.mark = m[1]
			}
			p.blocks = append(p.blocks, b)
		case !fence && open:
			p.blocks[len(p.blocks)-1].text += line + "\n"
		}
		if open = open != fence; open || fence {
			lines[i] = ""
		}
	}
	p.prose = strings.Join(lines, "\n")
	return p
}

// A match is what a group of a regular expression found in a page's prose, and where.
type match struct {
	where string // page and line
	text  string
}

func (p page) find(expression *regexp.Regexp, group int) []match {
	var found []match
	for _, at := range expression.FindAllStringSubmatchIndex(p.prose, -1) {
		where := fmt.Sprintf("%s:%d", p.path, 1+strings.Count(p.prose[:at[0]], "\n"))
		found = append(found, match{where, strings.ReplaceAll(p.prose[at[2*group]:at[2*group+1]], "\n", " ")})
	}
	return found
}

// codeSpans matches `code`, which may go on in a second line.
var codeSpans = regexp.MustCompile("`([^`\n]+(?:\n[^`\n]+)?)`")

// links matches [text](target), also of an image.
var links = regexp.MustCompile(`\[([^\[\]]*)\]\(([^()\s]+)\)`)

// anchors returns what links to a page's headings end with, as GitHub makes it.
func (p page) anchors() map[string]bool {
	found := map[string]bool{}
	for _, line := range strings.Split(p.prose, "\n") {
		heading := strings.TrimLeft(line, "#")
		if heading == line || !strings.HasPrefix(heading, " ") {
			continue
		}
		anchor := strings.Map(func(r rune) rune {
			switch {
			case r == ' ':
				return '-'
			case r == '-' || r == '_' || unicode.IsLetter(r) || unicode.IsDigit(r):
				return unicode.ToLower(r)
			}
			return -1
		}, links.ReplaceAllString(strings.TrimSpace(heading), "$1"))
		for name, n := anchor, 1; ; n++ {
			if !found[name] {
				found[name] = true
				break
			}
			name = fmt.Sprintf("%s-%d", anchor, n)
		}
	}
	return found
}

func TestLinksLeadSomewhere(t *testing.T) {
	t.Parallel()
	all, paths := pages(t), trackedPaths(t)
	anchors := map[string]map[string]bool{}
	for _, p := range all {
		anchors[p.path] = p.anchors()
	}
	for _, p := range all {
		for _, link := range p.find(links, 2) {
			if strings.Contains(link.text, "://") {
				continue // of the web, which a test can't rely on
			}
			file, anchor, hasAnchor := strings.Cut(link.text, "#")
			name := p.path
			if file != "" {
				name = path.Join(path.Dir(p.path), file)
			}
			switch {
			case !paths[name]:
				t.Errorf("%s: link to %s: no such file", link.where, link.text)
			case hasAnchor && !anchors[name][anchor]:
				t.Errorf("%s: link to %s: no such heading", link.where, link.text)
			}
		}
	}
}

// sources are the endings of files that are named only if they are in the repository.
var sources = []string{".go", ".py", ".sh", ".c", ".cc", ".h", ".md"}

func TestPathsExist(t *testing.T) {
	t.Parallel()
	paths := trackedPaths(t)
	for _, p := range pages(t) {
		for _, span := range p.find(codeSpans, 1) {
			name := strings.TrimSuffix(span.text, "/")
			first, _, nested := strings.Cut(span.text, "/")
			if strings.ContainsAny(name, " *<>{}$|:~") || !nested || first == "" {
				continue
			}
			if (paths[first] || slices.Contains(sources, path.Ext(name))) && !paths[name] {
				t.Errorf("%s: `%s`: no such file or folder", span.where, span.text)
			}
		}
	}
}

func TestReadmeIsShort(t *testing.T) {
	t.Parallel()
	const most = 150
	text, err := os.ReadFile(filepath.Join(root, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	if lines := bytes.Count(text, []byte("\n")); lines > most {
		t.Errorf("README.md has %d lines, want at most %d", lines, most)
	}
}

// commandWord matches text that begins like a shell command.
var commandWord = regexp.MustCompile(`^(\$ )?(\S+/)?(make|torchherd|curl|go|git|docker|podman|python3?|pip|bash|mkdir|cp|mv|tar) \S`)

func TestEveryBlockOfCommandsIsMarked(t *testing.T) {
	t.Parallel()
	paths := trackedPaths(t)
	for _, p := range pages(t) {
		for _, b := range p.blocks {
			where := fmt.Sprintf("%s:%d", p.path, b.line)
			if !b.shell() {
				if first := commandWord.FindString(b.text); first != "" && (b.language == "" || b.language == "text") {
					t.Errorf("%s: a block with the command %q: want the language sh", where, first)
				}
				if slices.Contains([]string{"bash", "shell", "console", "zsh"}, b.language) {
					t.Errorf("%s: a block in %s: want sh, as all blocks of commands", where, b.language)
				}
				continue
			}
			by, isBy := strings.CutPrefix(b.mark, "run by ")
			reason, isNot := strings.CutPrefix(b.mark, "not run: ")
			switch {
			case b.mark == "run" || b.mark == "run: serve":
			case isBy && !paths[by]:
				t.Errorf("%s: run by %s: no such file", where, by)
			case isBy || isNot && reason != "":
			default:
				t.Errorf("%s: the mark is %q, want run, run: serve, run by PATH, or not run: REASON", where, b.mark)
			}
		}
	}
}

func TestMakeTargetsExist(t *testing.T) {
	t.Parallel()
	makefile, err := os.ReadFile(filepath.Join(root, "Makefile"))
	if err != nil {
		t.Fatal(err)
	}
	targets := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^([a-z0-9 -]+):`).FindAllStringSubmatch(string(makefile), -1) {
		for _, name := range strings.Fields(m[1]) {
			targets[name] = true
		}
	}
	use := regexp.MustCompile(`(?m)^make ([a-z][a-z0-9-]*)`)
	for _, p := range pages(t) {
		for _, span := range p.find(codeSpans, 1) {
			for _, m := range use.FindAllStringSubmatch(span.text, -1) {
				if !targets[m[1]] {
					t.Errorf("%s: `%s`: no such target in the Makefile", span.where, span.text)
				}
			}
		}
		for _, b := range p.blocks {
			for _, m := range use.FindAllStringSubmatch(b.text, -1) {
				if b.shell() && !targets[m[1]] {
					t.Errorf("%s:%d: make %s: no such target in the Makefile", p.path, b.line, m[1])
				}
			}
		}
	}
}

func TestFlagsExist(t *testing.T) {
	t.Parallel()
	program := build(t)
	help := map[string]string{}
	separators := regexp.MustCompile(`&&|\|\||[;&|\n]|\s#`)
	for _, p := range pages(t) {
		for _, b := range p.blocks {
			if !b.shell() {
				continue
			}
			for _, command := range separators.Split(b.text, -1) {
				words := strings.Fields(command)
				at := slices.IndexFunc(words, func(word string) bool { return path.Base(word) == "torchherd" })
				if at < 0 || at+1 >= len(words) || words[0] == "docker" {
					continue
				}
				verb := words[at+1 : at+2]
				if verb[0] == "models" || verb[0] == "debug" { // they have commands of their own
					verb = words[at+1 : at+3]
				}
				name := strings.Join(verb, " ")
				if _, known := help[name]; !known {
					help[name] = output(t, program, append(slices.Clone(verb), "--help")...)
				}
				for _, word := range words[at+1:] {
					flag, _, _ := strings.Cut(word, "=")
					if strings.HasPrefix(flag, "--") && !regexp.MustCompile(flag+`\b`).MatchString(help[name]) {
						t.Errorf("%s:%d: torchherd %s has no flag %s", p.path, b.line, name, flag)
					}
				}
			}
		}
	}
}

// TestErrorTexts compares the texts of the table of errors with the server's sources.
func TestErrorTexts(t *testing.T) {
	t.Parallel()
	var code strings.Builder
	for name := range trackedPaths(t) {
		if strings.HasPrefix(name, "server/internal/") && strings.HasSuffix(name, ".go") && !strings.HasSuffix(name, "_test.go") {
			text, err := os.ReadFile(filepath.Join(root, filepath.FromSlash(name)))
			if err != nil {
				t.Fatal(err)
			}
			code.Write(text)
		}
	}
	rows := 0
	row := regexp.MustCompile("(?m)^\\|[^|]+\\| `([^`]+)`[^|]*\\| [45]\\d\\d")
	variable := regexp.MustCompile(`[."(\d].*`) // what follows depends on the request
	for _, p := range pages(t) {
		if p.path != "docs/http-api.md" {
			continue
		}
		for _, m := range p.find(row, 1) {
			rows++
			if text := variable.ReplaceAllString(m.text, ""); !strings.Contains(code.String(), text) {
				t.Errorf("%s: the server has no error %q", m.where, text)
			}
		}
	}
	if rows < 15 {
		t.Errorf("found %d rows of errors, want at least 15", rows)
	}
}

// build returns a torchherd of this tree. Its flags are those of `make build`, whose compiled packages it uses.
func build(t *testing.T) string {
	t.Helper()
	program, err := built()
	if err != nil {
		t.Fatal(err)
	}
	return program
}

var built = sync.OnceValues(func() (string, error) {
	program := filepath.Join(folder, "torchherd")
	ctx, cancel := context.WithTimeout(context.Background(), timeLimit)
	defer cancel()
	command := exec.CommandContext(ctx, "go", "build", "-tags", "relocatable", "-trimpath", "-o", program, "./server")
	command.Dir = root
	if out, err := command.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build ./server: %w\n%s", err, out)
	}
	libraries, err := filepath.Abs(filepath.Join(root, "bin", "lib"))
	if err != nil {
		return "", err
	}
	return program, os.Symlink(libraries, filepath.Join(folder, "lib"))
})

// folder is where build puts the program.
var folder string

func TestMain(m *testing.M) {
	var err error
	if folder, err = os.MkdirTemp("", "torchherd-docs-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	status := m.Run()
	_ = os.RemoveAll(folder)
	os.Exit(status)
}

// output runs a program and returns what it prints.
func output(t *testing.T, program string, arguments ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), timeLimit)
	defer cancel()
	out, err := exec.CommandContext(ctx, program, arguments...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", program, strings.Join(arguments, " "), err, out)
	}
	return string(out)
}

// TestCommands runs the marked blocks of each page in their order, in one folder and beside one server.
func TestCommands(t *testing.T) {
	t.Parallel()
	for _, tool := range []string{"bash", "curl"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("the commands can't be run without %s: %v", tool, err)
		}
	}
	ran := 0
	for _, p := range pages(t) {
		marked := slices.DeleteFunc(slices.Clone(p.blocks), func(b block) bool {
			return !b.shell() || b.mark != "run" && b.mark != "run: serve"
		})
		if len(marked) == 0 {
			continue
		}
		ran += len(marked)
		t.Run(p.path, func(t *testing.T) {
			t.Parallel()
			s := newSession(t)
			if slices.ContainsFunc(marked, func(b block) bool { return b.mark == "run" }) {
				s.startServer(t)
			}
			for _, b := range marked {
				if b.mark == "run: serve" {
					s.serve(t, fmt.Sprintf("%s:%d", p.path, b.line), b.text)
				} else {
					s.run(t, fmt.Sprintf("%s:%d", p.path, b.line), b.text)
				}
			}
		})
	}
	if ran < 10 {
		t.Errorf("ran %d blocks of commands, want at least 10", ran)
	}
}

// A session is a folder with the files that commands name, and the address of a server.
type session struct {
	folder      string
	environment []string
	addresses   *strings.Replacer // from those on the pages to the server's
}

// newSession makes the folder. The server is not started yet.
func newSession(t *testing.T) *session {
	t.Helper()
	program := build(t)
	s := &session{folder: t.TempDir(), addresses: strings.NewReplacer()}
	s.copy(t, "docs/pictures/before.jpg", "photo.jpg")
	s.copy(t, "models/photo2ink/model.pt", "photo2ink.pt")
	s.copy(t, "testdata/modules/negate.pt", "model.pt", "retrained.pt", "mymodel/1/model.pt", "mymodel/2/model.pt")
	s.write(t, "torchherd.yaml", []byte("max-batch-size: 4\nmax-queue-size: 16\n"))
	// An HTTP error is a failure, too.
	s.write(t, ".curlrc", []byte("fail\nsilent\nshow-error\n"))
	if err := os.MkdirAll(filepath.Join(s.folder, "bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(program, filepath.Join(s.folder, "bin", "torchherd")); err != nil {
		t.Fatal(err)
	}
	for _, variable := range os.Environ() {
		name, _, _ := strings.Cut(variable, "=")
		if !strings.HasPrefix(name, "TORCHHERD_") && !strings.HasSuffix(strings.ToLower(name), "_proxy") {
			s.environment = append(s.environment, variable)
		}
	}
	s.environment = append(s.environment,
		"CURL_HOME="+s.folder,
		"PATH="+filepath.Dir(program)+string(os.PathListSeparator)+os.Getenv("PATH"),
	)
	return s
}

// startServer serves the bundled model and, as mymodel, a folder with two versions. The addresses in commands become those
// of this server.
func (s *session) startServer(t *testing.T) {
	t.Helper()
	ready := s.start(t, "the server of the test", filepath.Join(s.folder, "bin", "torchherd"), "serve", "photo2ink.pt", "mymodel")
	s.addresses = strings.NewReplacer("localhost:8000", ready.Address, "localhost:8002", ready.AdminAddress)
	s.environment = append(s.environment, "TORCHHERD_LISTEN="+ready.Address, "TORCHHERD_ADMIN_LISTEN="+ready.AdminAddress)
}

// copy puts a file of the repository into the session's folder, under each of the names.
func (s *session) copy(t *testing.T, from string, names ...string) {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(root, filepath.FromSlash(from)))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		s.write(t, name, content)
	}
}

func (s *session) write(t *testing.T, name string, content []byte) {
	t.Helper()
	file := filepath.Join(s.folder, filepath.FromSlash(name))
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, content, 0o644); err != nil {
		t.Fatal(err)
	}
}

// command prepares a program that is killed, with its children, after the time limit.
func (s *session) command(t *testing.T, program string, arguments ...string) *exec.Cmd {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), timeLimit) // t.Context() ends before the cleanups
	t.Cleanup(cancel)
	command := exec.CommandContext(ctx, program, arguments...)
	command.Dir, command.Env = s.folder, s.environment
	command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	command.Cancel = func() error { return syscall.Kill(-command.Process.Pid, syscall.SIGKILL) }
	command.WaitDelay = time.Second
	return command
}

// run runs a block of commands, which must succeed.
func (s *session) run(t *testing.T, where, text string) {
	t.Helper()
	out, err := s.command(t, "bash", "-euo", "pipefail", "-c", s.addresses.Replace(text)).CombinedOutput()
	if err != nil {
		t.Errorf("%s: %v\n%s\nprinted:\n%s", where, err, text, out)
	}
}

// serve runs a block whose last line is a server, which must become ready.
func (s *session) serve(t *testing.T, where, text string) {
	t.Helper()
	lines := strings.Split(strings.TrimSpace(text), "\n")
	last := len(lines) - 1
	lines[last] = "exec " + lines[last] // so that the server gets the signal, and not the shell
	s.start(t, where, "bash", "-euo", "pipefail", "-c", strings.Join(lines, "\n"))
}

// readiness is what a server writes to its readiness descriptor.
type readiness struct {
	Address      string `json:"address"`
	AdminAddress string `json:"admin_address"`
}

// start starts a server on free ports and returns when it is ready. At the end of the test it must drain.
func (s *session) start(t *testing.T, where, program string, arguments ...string) readiness {
	t.Helper()
	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = reader.Close() }()
	command := s.command(t, program, arguments...)
	var log bytes.Buffer
	command.Stdout, command.Stderr = &log, &log
	command.ExtraFiles = []*os.File{writer} // descriptor 3
	command.Env = append(slices.Clone(command.Env), "TORCHHERD_LISTEN=127.0.0.1:0", "TORCHHERD_ADMIN_LISTEN=127.0.0.1:0", "TORCHHERD_READY_FD=3")
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	_ = writer.Close()
	var ready readiness
	failure := json.NewDecoder(reader).Decode(&ready)
	t.Cleanup(func() {
		_ = syscall.Kill(command.Process.Pid, syscall.SIGTERM)
		if err := command.Wait(); err != nil || failure != nil {
			t.Errorf("%s: the server exited with %v, want status 0 after SIGTERM; it printed:\n%s", where, err, log.String())
		}
	})
	if failure != nil {
		t.Fatalf("%s: the server didn't become ready: %v", where, failure)
	}
	return ready
}
