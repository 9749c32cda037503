# syntax=docker/dockerfile:1
# A training image with `supervisor` as its entrypoint. Build: docker build -t my-training .
# Run one host:   docker run --rm -v "$PWD/ml:/opt/ml" my-training
# GPUs: start from an image that has the CUDA libraries, or install tensorflow[and-cuda] below.
FROM python:3.12-slim

ENV PYTHONDONTWRITEBYTECODE=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1

# TensorFlow first and by itself: it is the large layer, and our own code changes more often.
RUN pip install "tensorflow>=2.16,<3"

# Then what we depend on, which changes with pyproject.toml only.
WORKDIR /src
COPY pyproject.toml README.md ./
COPY supervisor/__init__.py supervisor/LICENSE supervisor/
RUN pip install .

# Then the code itself. Compiled once here, not at every start.
COPY supervisor supervisor
RUN pip install --no-deps --force-reinstall . \
    && python -m compileall -q "$(python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/supervisor" \
    && rm -rf /src

# Any user may run it: the platform's own (root on most), or this one.
RUN useradd --create-home --uid 1000 trainer \
    && mkdir -p /opt/ml \
    && chown trainer:trainer /opt/ml
WORKDIR /opt/ml

# 2222 training, 2223 parameter server, 2224 status and coordination, 8890 MultiWorkerMirrored.
EXPOSE 2222 2223 2224 8890

# Live while the event loop turns, through draining too; a short job may end before the first look.
HEALTHCHECK --interval=30s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request; urllib.request.urlopen('http://127.0.0.1:' + os.environ.get('SUPERVISOR_STATUS_PORT', '2224') + '/livez', timeout=4)"]

# exec form: the supervisor is PID 1 and gets the platform's signals itself.
ENTRYPOINT ["supervisor"]
CMD ["train"]
