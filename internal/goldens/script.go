package goldens

import (
	"archive/zip"
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Script writes a TorchScript file whose forward(x) has this body, and returns its path. The body is TorchScript as
// torch.jit.save writes it, indented by four spaces. The file is testdata/modules/identity.pt with another body, so it needs
// no PyTorch.
func Script(t testing.TB, body string) string {
	t.Helper()
	return ScriptAt(t, filepath.Join(t.TempDir(), "model.pt"), body)
}

// ScriptAt is Script with the path of the file, whose folder it makes.
func ScriptAt(t testing.TB, path, body string) string {
	t.Helper()
	return writeScript(t, path, "x: Tensor", "Tensor", body)
}

// ScriptReturning is ScriptAt for a forward that returns another type, such as "Dict[str, Tensor]".
func ScriptReturning(t testing.TB, path, returns, body string) string {
	t.Helper()
	return writeScript(t, path, "x: Tensor", returns, body)
}

// ScriptOf is ScriptAt with the parameters of forward, such as "x: Tensor, y: float".
func ScriptOf(t testing.TB, path, parameters, body string) string {
	t.Helper()
	return writeScript(t, path, parameters, "Tensor", body)
}

func writeScript(t testing.TB, path, parameters, returns, body string) string {
	t.Helper()
	content := Read(t, "modules/identity.pt")
	archive, err := zip.NewReader(bytes.NewReader(content), int64(len(content)))
	if err != nil {
		t.Fatal(err)
	}
	var file bytes.Buffer
	out := zip.NewWriter(&file)
	for _, record := range archive.File {
		err = errors.Join(err, rewrite(out, record, parameters, returns, body))
	}
	err = errors.Join(err, out.Close(), os.MkdirAll(filepath.Dir(path), 0o750), os.WriteFile(path, file.Bytes(), 0o600))
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// rewrite copies a record, with other parameters, return type and body of forward in the code.
func rewrite(out *zip.Writer, record *zip.File, parameters, returns, body string) error {
	if !strings.HasSuffix(record.Name, "__torch__.py") {
		return out.Copy(record)
	}
	reader, err := record.Open()
	if err != nil {
		return err
	}
	code, err := io.ReadAll(reader)
	if err != nil {
		return err
	}
	before, _, _ := strings.Cut(string(code), "    return x")
	before = strings.Replace(before, "-> Tensor:", "-> "+returns+":", 1)
	before = strings.Replace(before, "x: Tensor", parameters, 1)
	writer, err := out.CreateHeader(&zip.FileHeader{Name: record.Name, Method: zip.Store})
	if err != nil {
		return err
	}
	_, err = io.WriteString(writer, before+strings.Trim(body, "\n")+"\n")
	return err
}

// Bodies for Script. They do it for images whose darkest value is above 0.9, and return others as they are.
const (
	// CrashesOnWhite ends the process by SIGFPE: a remainder of zero.
	CrashesOnWhite = `
    if bool(torch.any(torch.gt(torch.amin(x, [1, 2, 3]), 0.90000000000000002))):
      divisor = 0
    else:
      divisor = 1
    return torch.add(x, torch.remainder(5, divisor))
`
	// HangsOnWhite doesn't return.
	HangsOnWhite = `
    go = bool(torch.any(torch.gt(torch.amin(x, [1, 2, 3]), 0.90000000000000002)))
    y = x
    while go:
      y = torch.mul(y, 1.)
    return torch.mul(y, 1.)
`
	// Hangs doesn't return, whatever the image.
	Hangs = `
    y = x
    while bool(torch.gt(torch.sum(y), -1)):
      y = torch.mul(y, 1.)
    return y
`
)
