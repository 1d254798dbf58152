/*
 * Runs a deployed INT8 network: the folder that `drpai-qat compile` wrote, from C or C++.
 *
 *     drpai_qat_network *net = drpai_qat_load("/home/root/resnet50");
 *     if (net == NULL) { fprintf(stderr, "%s\n", drpai_qat_error()); return 1; }
 *     drpai_qat_set_input(net, 0, image, drpai_qat_input(net, 0)->bytes);
 *     drpai_qat_run(net);
 *     drpai_qat_get_output(net, 0, scores, drpai_qat_output(net, 0)->bytes);
 *     drpai_qat_free(net);
 *
 * Link the library of CMakeLists.txt, libtvm_runtime.so and libtvm_ffi.so. A network is for one thread at a time; it
 * uses TVM_NUM_THREADS threads itself (default: all cores). Several networks may be loaded at once.
 */
#ifndef DRPAI_QAT_H
#define DRPAI_QAT_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct drpai_qat_network drpai_qat_network;

/* One input or output; valid until the network is freed. */
typedef struct {
    const char *name;
    const char *dtype;    /* "float32" almost always; "int8", "uint8", "int32", "int64" where the model or --io says so */
    int32_t ndim;
    const int64_t *shape; /* row-major, as in the ONNX file */
    size_t bytes;         /* of the whole array */
    float scale;          /* integers q stand for the reals scale * (q - zero_point); */
    int32_t zero_point;   /* scale 0: for themselves, or the array holds reals */
    int32_t qmin, qmax;   /* the ends of those integers, maybe narrower than the type's */
} drpai_qat_tensor;

/* Load deploy.so, deploy.json and deploy.params from a folder. NULL on failure: see drpai_qat_error(). */
drpai_qat_network *drpai_qat_load(const char *folder);

/* Free it; NULL is allowed. */
void drpai_qat_free(drpai_qat_network *network);

int32_t drpai_qat_input_count(const drpai_qat_network *network);
int32_t drpai_qat_output_count(const drpai_qat_network *network);

/* What an input or output is; NULL where the index is out of range. */
const drpai_qat_tensor *drpai_qat_input(const drpai_qat_network *network, int32_t index);
const drpai_qat_tensor *drpai_qat_output(const drpai_qat_network *network, int32_t index);

/* The functions below return 0, or -1 on failure. */

/* Copy an input in; `bytes` must be exactly drpai_qat_input(network, index)->bytes. */
int drpai_qat_set_input(drpai_qat_network *network, int32_t index, const void *data, size_t bytes);

/*
 * Put an image into an input, prepared as deploy.json records (scaled, cut or padded, normalized, in the network's layout).
 * `pixels`: rows from the top, `channels` bytes a pixel: 1 (grey), 3 (RGB) or 4 (RGBA). Of a batch all get the same one.
 */
int drpai_qat_set_image(drpai_qat_network *network, int32_t index, const uint8_t *pixels, int32_t height, int32_t width,
                        int32_t channels);

/* Run once. Inputs keep their values from one run to the next. */
int drpai_qat_run(drpai_qat_network *network);

/* Copy an output of the last run out; `bytes` must be exactly drpai_qat_output(network, index)->bytes. */
int drpai_qat_get_output(drpai_qat_network *network, int32_t index, void *data, size_t bytes);

/* Threads that networks of this process share. */
int32_t drpai_qat_threads(void);

/* One line on why the last call of this thread failed; "" before any did. */
const char *drpai_qat_error(void);

#ifdef __cplusplus
}
#endif
#endif
