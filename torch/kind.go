package torch

import (
	"bytes"
	"encoding/binary"
	"io"
	"strings"
)

// A format is a kind of file that isn't a model, and what turns it into one.
type format struct {
	name   string
	is     func(head []byte) bool
	advice string
}

// starts returns a function that reports whether a file has these bytes at an offset.
func starts(offset int, magic ...string) func(head []byte) bool {
	return func(head []byte) bool {
		for _, each := range magic {
			if len(head) >= offset && bytes.HasPrefix(head[offset:], []byte(each)) {
				return true
			}
		}
		return false
	}
}

// The advice that several formats share.
const (
	exportWeights = "build the network in Python, load these weights into it, and save torch.jit.trace(network.eval(), image).save(\"model.pt\"); for CycleGAN: python models/export.py"
	exportModule  = "in Python, load it and save torch.jit.trace(module.eval(), image).save(\"model.pt\")"
	exportOther   = "export the PyTorch network that it was made from: torch.jit.trace(network.eval(), image).save(\"model.pt\")"
	compileExport = "compile it: torch._inductor.aoti_compile_and_package(torch.export.load(FILE), package_path=\"model.pt2\")"
	notAModel     = "specify a model file (.pt, .pt2)"
)

// formats are the files that aren't zip archives, by their first headSize bytes. The first that fits counts. The magic
// numbers are those of each format's specification.
var formats = []format{
	{"an empty file", func(head []byte) bool { return len(head) == 0 }, "copy the model again"},
	{"a Git LFS pointer", starts(0, "version https://git-lfs.github.com/spec/"), "get the file that it stands for: git lfs pull"},
	{"an HTML page", isHTML, "download the file itself, not the page about it"},
	{"compressed by gzip", starts(0, "\x1f\x8b"), "decompress it: gunzip FILE"},
	{"compressed by Zstandard", starts(0, "\x28\xb5\x2f\xfd"), "decompress it: unzstd FILE"},
	{"compressed by xz", starts(0, "\xfd7zXZ\x00"), "decompress it: unxz FILE"},
	{"compressed by bzip2", starts(0, "BZh"), "decompress it: bunzip2 FILE"},
	{"a 7-Zip archive", starts(0, "7z\xbc\xaf\x27\x1c"), "unpack it: 7z x FILE"},
	{"a GGUF file of llama.cpp", starts(0, "GGUF"), exportOther},
	{"an HDF5 file, such as of Keras", starts(0, "\x89HDF\r\n\x1a\n"), exportOther},
	{"a TensorFlow Lite model", starts(4, "TFL3"), exportOther},
	{"an ExecuTorch program", starts(4, "ET12", "ET13"), exportOther},
	{"a PyTorch Mobile flatbuffer", starts(4, "PTMF"), exportOther},
	{"a safetensors file: weights without a network", isSafetensors, exportWeights},
	{"a pickled legacy checkpoint (torch.save before PyTorch 1.6)", isLegacyCheckpoint, exportWeights},
	{"a tar archive, such as a checkpoint of PyTorch 0.1", starts(257, "ustar"), "unpack it: tar xf FILE; from a checkpoint, " + exportWeights},
	{"a pickled Python object", isPickle, exportWeights},
	{"an image", isImage, notAModel},
	{"an ONNX model", isONNX, exportOther},
	{"a truncated zip archive", starts(0, "PK\x03\x04"), "is it still being written? Copy it again"},
}

// headSize is how much of a file's start its format is told by, in bytes: the last magic number is tar's, at 257.
const headSize = 512

func isHTML(head []byte) bool {
	text := strings.ToLower(strings.TrimSpace(strings.TrimPrefix(string(head), "\ufeff")))
	return strings.HasPrefix(text, "<!doctype html") || strings.HasPrefix(text, "<html") || strings.HasPrefix(text, "<head")
}

// maxSafetensorsHeader is the format's limit, in bytes.
const maxSafetensorsHeader = 100_000_000

// isSafetensors looks for the size of the JSON header, 8 bytes, and its first byte.
func isSafetensors(head []byte) bool {
	return len(head) > 8 && head[8] == '{' && binary.LittleEndian.Uint64(head) <= maxSafetensorsHeader
}

// isLegacyCheckpoint looks for the pickled number 0x1950a86a20f9469cfc6c, with which torch.save began such files.
func isLegacyCheckpoint(head []byte) bool {
	return bytes.Contains(head[:min(len(head), 32)], []byte("\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"))
}

// isPickle looks for the opcode PROTO and a protocol of 2 to 5.
func isPickle(head []byte) bool {
	return len(head) > 2 && head[0] == 0x80 && head[1] >= 2 && head[1] <= 5
}

func isImage(head []byte) bool {
	return starts(0, "\xff\xd8\xff", "\x89PNG\r\n\x1a\n", "GIF8", "BM", "II*\x00", "MM\x00*")(head) ||
		starts(0, "RIFF")(head) && starts(8, "WEBP")(head)
}

// isONNX looks for the first field of the protobuf message ModelProto, ir_version: a small varint, and a field that
// writers put next: producer_name, producer_version, domain, model_version, graph or opset_import.
func isONNX(head []byte) bool {
	return len(head) > 2 && head[0] == 0x08 && head[1] >= 1 && head[1] < 32 && bytes.IndexByte([]byte("\x12\x1a\x22\x28\x3a\x42"), head[2]) >= 0
}

// kindOfArchive describes a zip archive that is neither TorchScript nor a package, by its records' names; "": it is one.
// No pickle is read.
func (a archive) kindOfArchive() string {
	has := map[string]bool{}
	exported, native := false, false
	for _, file := range a.zip.File {
		name := below(file)
		has[name] = true
		exported = exported || name == "serialized_exported_program.json" || strings.HasPrefix(name, "models/") && strings.HasSuffix(name, ".json")
		native = native || file.Name == "config.json" || file.Name == "model.weights.h5"
	}
	describe := func(kind, advice string) string { return kind + "; " + advice }
	switch {
	case len(a.packageFiles()) > 0:
		return ""
	case exported:
		return describe("an exported program (torch.export.save), which isn't compiled", compileExport)
	case has["constants.pkl"]: // every TorchScript archive has it, and no checkpoint
		return ""
	case has["data.pkl"]:
		return describe("a checkpoint (torch.save): a state dict or a pickled module, without TorchScript code", "export it as TorchScript: "+exportWeights)
	case native:
		return describe("a Keras model", exportOther)
	}
	return describe("a zip archive of another kind", "specify a model file in it, unpacked (.pt, .pt2)")
}

// problem returns what the file is and what to do, or "" if it can be a model.
func (f *File) problem() string {
	if len(f.archive.zip.File) > 0 {
		return f.archive.kindOfArchive()
	}
	head := make([]byte, headSize)
	n, err := f.reader().ReadAt(head, 0)
	if err != nil && err != io.EOF { //nolint:errorlint // ReadAt returns io.EOF itself
		return "" // Load reports it
	}
	head = head[:n]
	if int64(n) < min(f.size, headSize) {
		return "" // shorter than it says, which Load reports
	}
	for _, each := range formats {
		if each.is(head) {
			return each.name + ", not a model; " + each.advice
		}
	}
	return "neither TorchScript (torch.jit.save) nor an AOTInductor package; " + notAModel
}

func (f *File) reader() io.ReaderAt {
	if f.file == nil {
		return bytes.NewReader(f.content)
	}
	return f.file
}
