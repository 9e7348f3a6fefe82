package api

import (
	"mime"
	"net/http"
	"strconv"
	"strings"

	"github.com/torchherd/torchherd/server/internal/settings"
)

// responseFormat returns the format of the response: that of ?format=, or else the best in Accept, or else the model's
// default. Among formats that the client accepts equally, the model's default comes first, then JPEG, then PNG. A client
// that accepts none of them gets the model's default, because clients of the Sanic demo may send any Accept header.
func responseFormat(request *http.Request, modelDefault settings.Format) (settings.Format, error) {
	if request.URL.RawQuery != "" { // parsing an empty one allocates as well
		if name := request.URL.Query().Get("format"); name != "" {
			return parseFormat(name)
		}
	}
	accepts := request.Header.Values("Accept")
	if len(accepts) == 0 {
		return modelDefault, nil
	}
	best, bestQuality := modelDefault, 0.0
	for _, format := range []settings.Format{modelDefault, settings.JPEG, settings.PNG, settings.WebP} {
		if q := quality(accepts, format.ContentType()); q > bestQuality {
			best, bestQuality = format, q
		}
	}
	return best, nil
}

// parseFormat reads a format's name, in any case; jpg is jpeg.
func parseFormat(name string) (settings.Format, error) {
	name = strings.ToLower(name)
	if name == "jpg" {
		return settings.JPEG, nil
	}
	var format settings.Format
	if format.UnmarshalText([]byte(name)) != nil {
		return "", errBadFormat
	}
	return format, nil
}

// quality returns the weight from 0 to 1 that Accept headers give a media type, by the most specific range that covers it
// (RFC 9110, section 12.5.1).
func quality(accepts []string, contentType string) float64 {
	family, _, _ := strings.Cut(contentType, "/")
	specificity := map[string]int{contentType: 3, family + "/*": 2, "*/*": 1}
	found, weight := 0, 0.0
	for _, entry := range strings.Split(strings.Join(accepts, ","), ",") {
		mediaType, parameters, err := mime.ParseMediaType(entry)
		if err != nil || specificity[mediaType] <= found {
			continue
		}
		found, weight = specificity[mediaType], 1
		if q, err := strconv.ParseFloat(parameters["q"], 64); err == nil {
			weight = q
		}
	}
	return weight
}
