package torch

import (
	"archive/zip"
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strings"
)

// A fileKind is a kind of file that isn't a model, but that users take for one.
type fileKind struct {
	name string // with its article
	// remedy is what turns the file into a model, or else what to do; PATH stands for the file.
	remedy string
	// begins reports whether a file begins like this kind. size is that of the whole file, of which head is the beginning.
	begins func(head []byte, size int64) bool
}

// headSize is how many bytes of a file are looked at.
const headSize = 512

func magic(texts ...string) func([]byte, int64) bool { return magicAt(0, texts...) }

func magicAt(offset int, texts ...string) func([]byte, int64) bool {
	return func(head []byte, _ int64) bool {
		for _, text := range texts {
			if len(head) >= offset && bytes.HasPrefix(head[offset:], []byte(text)) {
				return true
			}
		}
		return false
	}
}

const (
	trace         = `torch.jit.trace(net.eval(), torch.rand(1, 3, 256, 256)).save("model.pt")`
	fromStateDict = `build its network in Python, and: net.load_state_dict(%s); ` + trace
	fromWeights   = "a CycleGAN or pix2pix generator's: run: python -m torchherd_tools export PATH -o model.pt; another's: " + fromStateDict
	original      = "export the PyTorch model that it was made from: " + trace
)

var markup = regexp.MustCompile(`(?i)^\x{feff}?\s*<(!doctype|html|head|\?xml)`)

// isPickle: the opcode of a protocol, 2 to 5.
func isPickle(head []byte, _ int64) bool {
	return len(head) > 2 && head[0] == 0x80 && head[1] >= 2 && head[1] <= 5
}

// fileKinds are recognised in this order.
var fileKinds = []fileKind{
	{"a Git LFS pointer, not the file itself", "run: git lfs pull", magic("version https://git-lfs.github.com/")},
	{"a web page, perhaps of a login or an error", "download the file again", func(head []byte, _ int64) bool { return markup.Match(head) }},
	{"compressed by gzip", "run: gunzip PATH, or tar -xzf PATH for an archive", magic("\x1f\x8b")},
	{"compressed by Zstandard", "run: zstd -d PATH", magic("\x28\xb5\x2f\xfd")},
	{"compressed by xz", "run: unxz PATH", magic("\xfd7zXZ\x00")},
	{"compressed by bzip2", "run: bunzip2 PATH", magic("BZh")},
	{"a 7-Zip archive", "unpack it: 7z x PATH", magic("7z\xbc\xaf\x27\x1c")},
	{"an image", "name a model, and send images to the server", magic("\xff\xd8\xff", "\x89PNG\r\n", "GIF8", "II*\x00", "MM\x00*")},
	{"an image", "name a model, and send images to the server", magicAt(8, "WEBP")},
	{"a safetensors file, which has weights but no network", strings.Replace(fromStateDict, "%s", `safetensors.torch.load_file("PATH")`, 1), isSafetensors},
	{"a GGUF file of a language model", "torchherd serves image models", magic("GGUF")},
	{"an HDF5 file, as of Keras", original, magic("\x89HDF\r\n\x1a\n")},
	{"a TensorFlow Lite model", original, magicAt(4, "TFL")},
	{"an ExecuTorch program", original, magicAt(4, "ET1")},
	{"a PyTorch Mobile flatbuffer", original, magicAt(4, "PTMF")},
	{"a TensorRT engine", original, magic("ftrt", "ptrt")},
	{
		"a checkpoint of PyTorch before 1.6 (torch.save)", strings.Replace(fromWeights, "%s", `torch.load("PATH")`, 1),
		magic("\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19"), // the pickle of torch.serialization.MAGIC_NUMBER
	},
	{"a checkpoint of PyTorch before 0.1.10 (torch.save)", strings.Replace(fromWeights, "%s", `torch.load("PATH")`, 1), isTarOf("sys_info", "pickle", "tensors", "storages")},
	{"a tar archive", "unpack it: tar -xf PATH", magicAt(257, "ustar")},
	{"a Python pickle", "load it where it was made, and: " + trace, isPickle},
	{"an ONNX model", `run: python -c 'import torch, onnx2torch; net = onnx2torch.convert("PATH"); ` + trace + `'`, isONNX},
}

// isSafetensors: the length of a JSON object in 8 bytes, and the object.
func isSafetensors(head []byte, size int64) bool {
	return len(head) > 9 && head[8] == '{' && binary.LittleEndian.Uint64(head) <= uint64(max(0, size-8))
}

// isONNX: a ModelProto begins with its ir_version, a small number, and goes on with a text or the next field.
func isONNX(head []byte, _ int64) bool {
	return len(head) > 2 && head[0] == 0x08 && head[1] >= 1 && head[1] < 32 && (head[2] == 0x12 || head[2] == 0x1a || head[2] == 0x3a)
}

// isTarOf returns a test for a tar file whose first entry has one of these names.
func isTarOf(names ...string) func([]byte, int64) bool {
	return func(head []byte, _ int64) bool {
		entry, _, _ := bytes.Cut(head, []byte{0})
		for _, name := range names {
			if string(entry) == name && len(head) == headSize {
				return true
			}
		}
		return false
	}
}

// describe returns the kind's name and remedy for a file.
func (k fileKind) describe(path string) string {
	return k.name + "; " + strings.ReplaceAll(k.remedy, "PATH", path)
}

// kindOfHead returns the kind of a file by its beginning; nil: unknown.
func kindOfHead(head []byte, size int64) *fileKind {
	for i := range fileKinds {
		if fileKinds[i].begins(head, size) {
			return &fileKinds[i]
		}
	}
	return nil
}

// Kinds of zip files that aren't models.
var (
	exportedProgram = fileKind{
		name:   "an exported program (torch.export.save), which isn't compiled",
		remedy: `run: python -c 'import torch; torch._inductor.aoti_compile_and_package(torch.export.load("PATH"), package_path="model.pt2")'`,
	}
	pickledModule = fileKind{
		name:   "a pickled module (torch.save of a whole network), which needs its Python code",
		remedy: `where that code is: net = torch.load("PATH", weights_only=False); ` + trace,
	}
	stateDict = fileKind{
		name:   "a checkpoint (torch.save), which has weights but no network",
		remedy: strings.Replace(fromWeights, "%s", `torch.load("PATH")`, 1),
	}
	kerasModel = fileKind{name: "a Keras model", remedy: original}
	otherZip   = fileKind{name: "a zip file without a model", remedy: "unpack it, and name the model inside"}
)

// kindOfZip returns the kind of an archive that is neither TorchScript nor a package.
func (a archive) kindOfZip() fileKind {
	if models := a.packageModels(); len(models) > 0 {
		return fileKind{
			name:   fmt.Sprintf("an AOTInductor package of several models (%s)", strings.Join(slices.Sorted(maps.Keys(models)), ", ")),
			remedy: "package one of them alone, or under the name " + defaultModel,
		}
	}
	for _, file := range a.zip.File {
		switch name := below(file); {
		case strings.HasPrefix(name, "serialized_exported_program"), strings.HasPrefix(name, "models/") && strings.HasSuffix(name, ".json"),
			file.Name == "serialized_exported_program.json":
			return exportedProgram
		case name == "data.pkl":
			if holdsModule(file) {
				return pickledModule
			}
			return stateDict
		case file.Name == "model.weights.h5":
			return kerasModel
		}
	}
	return otherZip
}

// holdsModule reports whether a pickle names a class of torch.nn. The pickle isn't read as one, which would run its code.
func holdsModule(file *zip.File) bool {
	record, err := file.Open()
	if err != nil {
		return false
	}
	defer func() { _ = record.Close() }()
	const enough = 16 << 20
	content, err := io.ReadAll(io.LimitReader(record, enough))
	return err == nil && bytes.Contains(content, []byte("torch.nn.modules."))
}
