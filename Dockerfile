# The tool in a container: `docker build -t drpai-qat .` runs `make demo`; then, with models in this folder,
#   docker run --rm -v "$PWD:/work" drpai-qat compile model.onnx -a -m pytorch
FROM debian:12-slim
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3 python3-venv make gcc g++ libc6-dev \
    && rm -rf /var/lib/apt/lists/*
COPY . /opt/drpai-qat
RUN make -C /opt/drpai-qat demo
ENV PATH=/opt/drpai-qat/.venv/bin:$PATH
WORKDIR /work
ENTRYPOINT ["drpai-qat"]
