package torch_test

import (
	"archive/zip"
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/torchherd/torchherd/internal/goldens"
	"github.com/torchherd/torchherd/torch"
)

// Check accepts what can be a model and refuses other files with the reason, without loading them.
func TestCheck(t *testing.T) {
	empty := filepath.Join(t.TempDir(), "empty.pt")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		goldens.Path("modules/negate.pt"):            "",
		goldens.Path("modules/negate.pt2"):           "",
		goldens.Path("../models/photo2ink/model.pt"): "",
		goldens.Path("modules/nan.pt"):               "", // only running it shows what is wrong
		goldens.Path("modules/garbage.pt"):           "neither TorchScript",
		goldens.Path("modules/truncated.pt"):         "truncated zip archive",
		goldens.Path("modules/checkpoint.pth"):       "export it as TorchScript",
		goldens.Path("pictures/jpeg-420.jpg"):        "an image, not a model",
		empty:                                        "an empty file",
	} {
		file, err := torch.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		err = file.Check()
		_ = file.Close()
		if want == "" {
			if err != nil {
				t.Errorf("%s: %v", path, err)
			}
			continue
		}
		expectKind(t, err, torch.ErrNotAModule)
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", path, err, want)
		}
	}
}

// A file of another kind is named, with what turns it into a model. Check and Load agree.
func TestKinds(t *testing.T) {
	zipped := func(names ...string) string {
		var b bytes.Buffer
		w := zip.NewWriter(&b)
		for _, name := range names {
			if _, err := w.Create(name); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		return b.String()
	}
	for _, test := range []struct{ content, name, advice string }{
		{"", "an empty file", "copy the model again"},
		{"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "a Git LFS pointer", "git lfs pull"},
		{"\n<!DOCTYPE html><html>", "an HTML page", "download the file itself"},
		{"\x1f\x8b\x08\x00\x00", "gzip", "gunzip"},
		{"\x28\xb5\x2f\xfd\x00", "Zstandard", "unzstd"},
		{"\xfd7zXZ\x00\x00", "xz", "unxz"},
		{"BZh91AY&SY", "bzip2", "bunzip2"},
		{"7z\xbc\xaf\x27\x1c\x00", "7-Zip", "7z x"},
		{"GGUF\x03\x00\x00\x00", "GGUF", "torch.jit.trace"},
		{"\x89HDF\r\n\x1a\n\x00", "HDF5", "torch.jit.trace"},
		{"\x1c\x00\x00\x00TFL3\x14\x00", "TensorFlow Lite", "torch.jit.trace"},
		{"\x30\x00\x00\x00ET12\x14\x00", "ExecuTorch", "torch.jit.trace"},
		{"\x30\x00\x00\x00PTMF\x14\x00", "PyTorch Mobile", "torch.jit.trace"},
		{"\x40\x00\x00\x00\x00\x00\x00\x00{\"a\":{}}", "safetensors", "models/export.py"},
		{"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.", "legacy checkpoint", "models/export.py"},
		{strings.Repeat("\x00", 257) + "ustar\x00", "a tar archive", "tar xf"},
		{"\x80\x04\x95\x00\x00", "a pickled Python object", "torch.jit.trace"},
		{"\x08\x08\x12\x07pytorch", "an ONNX model", "torch.jit.trace"},
		{"RIFF\x00\x00\x00\x00WEBPVP8 ", "an image", "specify a model file"},
		{"PK\x03\x04\x00", "a truncated zip archive", "still being written"},
		{zipped("m/data.pkl", "m/version"), "a checkpoint (torch.save)", "models/export.py"},
		{zipped("m/models/model.json", "m/archive_format"), "an exported program", "aoti_compile_and_package"},
		{zipped("serialized_exported_program.json", "x/serialized_exported_program.json"), "an exported program", "aoti_compile_and_package"},
		{zipped("config.json", "model.weights.h5"), "a Keras model", "torch.jit.trace"},
		{zipped("a/b"), "a zip archive of another kind", "unpacked"},
	} {
		file := torch.NewBytes([]byte(test.content))
		_, loaded := file.Load(torch.Options{})
		for _, err := range []error{file.Check(), loaded} {
			expectKind(t, err, torch.ErrNotAModule)
			if err == nil || !strings.Contains(err.Error(), test.name) || !strings.Contains(err.Error(), test.advice) || strings.Contains(err.Error(), "\n") {
				t.Errorf("got %v, want one line with %q and %q", err, test.name, test.advice)
			}
		}
	}
}
