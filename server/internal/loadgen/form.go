package loadgen

import (
	"bytes"
	"io"
	"mime/multipart"
	"net/http"
)

// formBoundary separates the parts of forms. It is fixed, so that a form can be told from an image.
const formBoundary = "torchherd-bench-0b7f4c1e9d2a"

// A Part is a part of a form beside the image.
type Part struct {
	Name    string
	Content []byte
	IsFile  bool
}

// Form returns an image and further parts as the body of a multipart form, in which the image's part is named image.
func Form(image []byte, parts []Part) ([]byte, error) {
	var body bytes.Buffer
	writer := multipart.NewWriter(&body)
	if err := writer.SetBoundary(formBoundary); err != nil {
		return nil, err
	}
	for _, part := range append([]Part{{"image", image, true}}, parts...) {
		create := writer.CreateFormField
		if part.IsFile {
			create = func(name string) (io.Writer, error) { return writer.CreateFormFile(name, name) }
		}
		to, err := create(part.Name)
		if err != nil {
			return nil, err
		}
		if _, err := to.Write(part.Content); err != nil {
			return nil, err
		}
	}
	err := writer.Close()
	return body.Bytes(), err
}

// ContentType returns the Content-Type of an image, or of a body of Form.
func ContentType(body []byte) string {
	if bytes.HasPrefix(body, []byte("--"+formBoundary)) {
		return "multipart/form-data; boundary=" + formBoundary
	}
	return http.DetectContentType(body)
}
