package api

import (
	"mime"
	"net/http"
	"strconv"
	"strings"

	"github.com/torchherd/torchherd/server/internal/settings"
)

// responseFormat returns the format of the response: that of ?format=, or else the one that the Accept header prefers, or
// else the model's default.
//
// Accept prefers a format if the client accepts it more than the model's default, which it must not accept by a wildcard:
// browsers list each format that they can show beside */*, and want none of them. Lossless WebP, for example, is ten times
// as large as JPEG. Among formats that the client accepts equally, the default comes first, then JPEG, then PNG. A client
// that accepts none of them gets the default, because clients of the Sanic demo may send any Accept header.
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
	best := modelDefault
	bestQuality, wildcard := quality(accepts, best.ContentType())
	if wildcard && bestQuality > 0 {
		return modelDefault, nil
	}
	for _, format := range []settings.Format{settings.JPEG, settings.PNG, settings.WebP, settings.AVIF} {
		if q, _ := quality(accepts, format.ContentType()); q > bestQuality {
			best, bestQuality = format, q
		}
	}
	return best, nil
}

// responseQuality returns the quality of ?quality=, or 0 if the query has none.
func responseQuality(request *http.Request) (int, error) {
	if request.URL.RawQuery == "" {
		return 0, nil
	}
	values := request.URL.Query()
	if !values.Has("quality") {
		return 0, nil
	}
	q, err := strconv.Atoi(values.Get("quality"))
	if err != nil || q < 1 || q > 100 {
		return 0, errBadQuality
	}
	return q, nil
}

// answerSize returns the size of the response in ?size=; nil: there is none. The Sanic demo ignores its query.
func (s *Server) answerSize(request *http.Request) (*settings.AnswerSize, error) {
	if s.config.Sanic || request.URL.RawQuery == "" {
		return nil, nil
	}
	text := request.URL.Query().Get("size")
	if text == "" {
		return nil, nil
	}
	size := new(settings.AnswerSize)
	if size.UnmarshalText([]byte(text)) != nil {
		return nil, errBadSize
	}
	return size, nil
}

// parseFormat reads a format's name, in any case; jpg is jpeg.
func parseFormat(name string) (settings.Format, error) {
	name = strings.ToLower(name)
	if name == "jpg" {
		return settings.JPEG, nil
	}
	var format settings.Format
	if format.UnmarshalText([]byte(name)) != nil || format == settings.AutoFormat {
		return "", errBadFormat
	}
	return format, nil
}

// quality returns the weight from 0 to 1 that Accept headers give a media type, by the most specific range that covers it
// (RFC 9110, section 12.5.1), and whether that range is a wildcard.
func quality(accepts []string, contentType string) (weight float64, wildcard bool) {
	const exact = 3
	family, _, _ := strings.Cut(contentType, "/")
	specificity := map[string]int{contentType: exact, family + "/*": 2, "*/*": 1}
	found := 0
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
	return weight, found > 0 && found < exact
}
