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
		goldens.Path("modules/truncated.pt"):         "a zip file without its end",
		goldens.Path("modules/checkpoint.pth"):       "a checkpoint (torch.save), which has weights but no network; a CycleGAN or pix2pix generator's: run: python -m torchherd_tools export ",
		goldens.Path("pictures/jpeg-420.jpg"):        "an image; name a model",
		empty:                                        "the file is empty",
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

// Files of other kinds are named by their beginnings, with what turns them into a model.
func TestOtherFilesAreNamed(t *testing.T) {
	zeros := strings.Repeat("\x00", 600)
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
	for content, want := range map[string]string{
		zipped("m/data.pkl", "m/version"):                                   "a checkpoint (torch.save), which has weights but no network; a CycleGAN or pix2pix generator's: run: python -m torchherd_tools export ",
		zipped("m/models/model.json", "m/archive_format"):                   "an exported program (torch.export.save), which isn't compiled; run: python -c",
		zipped("serialized_exported_program.json", "serialized_state_dict"): "an exported program",
		zipped("config.json", "model.weights.h5"):                           "a Keras model; export the PyTorch model",
		zipped("a/b"):                          "a zip file without a model; unpack it",
		"\x30\x00\x00\x00PTMF\x14\x00" + zeros: "a PyTorch Mobile flatbuffer",
		"\x10\x00\x00\x00\x00\x00\x00\x00{\"__metadata__\":0}" + zeros:       "a safetensors file, which has weights but no network; build its network",
		"\x08\x0a\x12\x07pytorch\x1a\x052.1.0" + zeros:                       "an ONNX model; run: python -c",
		"\x89HDF\r\n\x1a\n" + zeros:                                          "an HDF5 file, as of Keras; export the PyTorch model",
		"\x1c\x00\x00\x00TFL3" + zeros:                                       "a TensorFlow Lite model; export",
		"\x38\x00\x00\x00ET12" + zeros:                                       "an ExecuTorch program; export",
		"GGUF" + zeros:                                                       "a GGUF file",
		"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19." + zeros:                 "a checkpoint of PyTorch before 1.6 (torch.save); a CycleGAN or pix2pix generator's: run: python -m torchherd_tools export ",
		"sys_info" + zeros:                                                   "a checkpoint of PyTorch before 0.1.10",
		"\x80\x04\x95" + zeros:                                               "a Python pickle; load it where",
		"<!DOCTYPE html><html><title>Quota exceeded</title></html>":          "a web page, perhaps of a login or an error; download the file again",
		"\n  <HTML lang=en>":                                                 "a web page",
		"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n": "a Git LFS pointer, not the file itself; run: git lfs pull",
		"\x1f\x8b\x08" + zeros:                                               "compressed by gzip; run: gunzip ",
		"\x28\xb5\x2f\xfd" + zeros:                                           "compressed by Zstandard",
		"\xfd7zXZ\x00" + zeros:                                               "compressed by xz",
		"BZh9" + zeros:                                                       "compressed by bzip2",
		"PK\x03\x04" + zeros:                                                 "a zip file without its end",
		"RIFF\x10\x00\x00\x00WEBPVP8 ":                                       "an image",
		"model/\x00" + strings.Repeat("\x00", 250) + "ustar" + zeros:         "a tar archive; unpack it",
		"moo": "neither TorchScript (torch.jit.save) nor an AOTInductor package",
		"\xff\xff\xff\xff\xff\xff\xff\x7f{" + zeros: "neither TorchScript",
	} {
		path := filepath.Join(t.TempDir(), "model.pt")
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := torch.Load(path, torch.Options{})
		expectKind(t, err, torch.ErrNotAModule)
		if !strings.Contains(err.Error(), path+": "+want) {
			t.Errorf("%.20q: got %v, want %q", content, err, want)
		}
	}
}
