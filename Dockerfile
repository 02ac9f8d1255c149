# An image without a GPU: docker build -t lm-headroom . && docker run --rm -v "$PWD:/study" lm-headroom run config.yaml
# torch's CPU build needs --build-arg PIP_EXTRA_INDEX_URL=..., the place that PyTorch names for it; without, pip takes
# the build with CUDA, gigabytes more.
FROM python:3.11-slim-bookworm
ARG PIP_EXTRA_INDEX_URL=""
RUN apt-get update \
    && apt-get install --no-install-recommends -y make=4.3* \
    && rm -rf /var/lib/apt/lists/*
COPY . /opt/lm-headroom
RUN make -C /opt/lm-headroom install
ENV PATH="/opt/lm-headroom/.venv/bin:$PATH"
WORKDIR /study
ENTRYPOINT ["lm-headroom"]
CMD ["--help"]
