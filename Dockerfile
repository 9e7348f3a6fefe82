# torchherd for the CPU. Put a model of your own into the container and name it:
#
#   docker build -t torchherd .
#   docker run -p 8000:8000 torchherd
#   docker run -p 8000:8000 -v ./model.pt:/model.pt:ro torchherd /model.pt

FROM golang:1.26.8-bookworm AS build
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3 python3-pip \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
# What changes seldom comes first, so that its layers are used again: the compiler's packages and LibTorch, then
# Go's modules.
COPY scripts scripts
RUN scripts/setup.sh && scripts/libtorch.sh
COPY go.mod go.sum ./
RUN go mod download
COPY . .
RUN make dist && mv dist/torchherd-*/ /opt/torchherd

FROM debian:bookworm-slim
LABEL org.opencontainers.image.title="torchherd" \
      org.opencontainers.image.description="Serves a PyTorch image-to-image model, in batches" \
      org.opencontainers.image.source="https://github.com/torchherd/torchherd" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /opt/torchherd /opt/torchherd
ENV PATH=/opt/torchherd:$PATH
USER 65532:65532
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s CMD ["torchherd", "health"]
ENTRYPOINT ["torchherd", "serve"]
