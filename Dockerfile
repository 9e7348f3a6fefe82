# torchherd for the CPU. The first command serves the bundled model, the second your own:
#
#   docker run -p 8000:8000 torchherd
#   docker run -p 8000:8000 -v ./model.pt:/model.pt:ro torchherd /model.pt
#
# `make image` builds it, and so does: docker build -t torchherd .

FROM golang:1.26.8-bookworm AS build
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3 python3-pip \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
# Compiler, LibTorch and Go modules have layers before the sources, because they change less often.
COPY scripts scripts
RUN scripts/setup.sh && scripts/libtorch.sh
COPY go.mod go.sum ./
RUN go mod download
COPY . .
RUN make dist && mv dist/torchherd-*/ /opt/torchherd

FROM debian:bookworm-slim
LABEL org.opencontainers.image.title="torchherd" \
      org.opencontainers.image.description="Serves PyTorch image-to-image models in batches" \
      org.opencontainers.image.source="https://github.com/torchherd/torchherd" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /opt/torchherd /opt/torchherd
ENV PATH=/opt/torchherd:$PATH
USER 65532:65532
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s CMD ["torchherd", "health"]
ENTRYPOINT ["torchherd", "serve"]
