# The command line in a container: docker build -t recon4d . && docker run --rm -v "$PWD:/data" recon4d models
#
# For GPUs: docker build -t recon4d:cuda --build-arg BASE=nvidia/cuda:12.8.1-runtime-ubuntu24.04 \
#   --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu128 .
# and docker run --gpus all. TORCH_INDEX must suit the CUDA version of the driver.
ARG BASE=python:3.12-slim-bookworm
FROM ${BASE}

# Where torch comes from. The default has no CUDA libraries, which saves several GB.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
# Extras of the package, such as "[view,onnx,usd]".
ARG EXTRAS=""

ENV DEBIAN_FRONTEND=noninteractive \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PYTHONDONTWRITEBYTECODE=1

# The libraries are those that open3d needs. Images of Python bring their own Python, those of CUDA none.
# hadolint ignore=DL3008,SC2046
RUN apt-get update \
    && apt-get install -y --no-install-recommends libgl1 libgomp1 libudev1 libx11-6 \
    $(command -v python3 > /dev/null || echo python3 python3-venv) \
    && rm -rf /var/lib/apt/lists/*

RUN useradd --create-home --uid 10001 recon4d \
    && mkdir /opt/recon4d /data /cache \
    && chown recon4d /opt/recon4d /data \
    && chmod 1777 /cache
USER 10001

ENV VIRTUAL_ENV=/opt/recon4d/venv \
    PATH=/opt/recon4d/venv/bin:$PATH
# hadolint ignore=DL3013
RUN python3 -m venv "$VIRTUAL_ENV" \
    && pip install --index-url "$TORCH_INDEX" torch torchvision

COPY --chown=10001 pyproject.toml README.md LICENSE /opt/recon4d/source/
COPY --chown=10001 recon4d /opt/recon4d/source/recon4d
RUN pip install "/opt/recon4d/source${EXTRAS}"

# Downloaded weights and caches of libraries; mount a volume there to keep them. Any user may write to it.
ENV RECON4D_CACHE=/cache/recon4d \
    HF_HOME=/cache/huggingface \
    MPLCONFIGDIR=/cache/matplotlib

# Input files are read from and results written to the mounted folder /data.
WORKDIR /data
ENTRYPOINT ["recon4d"]
CMD ["--help"]
