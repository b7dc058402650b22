# Builds libedgeseg_cuda, the kernels on device memory, where a CUDA compiler is found.
#
#   EDGESEG_CUDA                 AUTO (default): if nvcc is found; ON: or fail; OFF: never
#   EDGESEG_CUDA_ARCHITECTURES   as CMAKE_CUDA_ARCHITECTURES, or native; default: see below
set(EDGESEG_CUDA AUTO CACHE STRING "Build the CUDA kernels: AUTO, ON or OFF")
set_property(CACHE EDGESEG_CUDA PROPERTY STRINGS AUTO ON OFF)
set(EDGESEG_CUDA_ARCHITECTURES "" CACHE STRING
  "CUDA architectures, as in CMAKE_CUDA_ARCHITECTURES, or native; empty: chosen from nvcc's")

string(TOUPPER "${EDGESEG_CUDA}" edgeseg_cuda_choice)
if(NOT edgeseg_cuda_choice MATCHES "^(AUTO|ON|OFF)$")
  message(FATAL_ERROR "EDGESEG_CUDA is AUTO, ON or OFF, not '${EDGESEG_CUDA}'")
endif()
if(edgeseg_cuda_choice STREQUAL "OFF")
  message(STATUS "edgeseg: no CUDA kernels (EDGESEG_CUDA=OFF)")
  return()
endif()

# Ends this file: with an error if the kernels were asked for, else with a word on why there are none.
macro(edgeseg_no_cuda reason remedy)
  if(edgeseg_cuda_choice STREQUAL "ON")
    message(FATAL_ERROR "EDGESEG_CUDA=ON, but ${reason}. ${remedy}, or build without: "
      "-DEDGESEG_CUDA=OFF")
  endif()
  message(STATUS "edgeseg: no CUDA kernels, since ${reason} (EDGESEG_CUDA=AUTO)")
  return()
endmacro()

# check_language looks on PATH and at CUDACXX alone; JetPack puts nvcc on neither.
if(NOT CMAKE_CUDA_COMPILER AND "$ENV{CUDACXX}" STREQUAL "")
  find_program(EDGESEG_NVCC nvcc PATHS /usr/local/cuda/bin /opt/cuda/bin)
  mark_as_advanced(EDGESEG_NVCC)
  if(EDGESEG_NVCC)
    set(CMAKE_CUDA_COMPILER "${EDGESEG_NVCC}")
  endif()
endif()
include(CheckLanguage)
check_language(CUDA)
if(NOT CMAKE_CUDA_COMPILER)
  edgeseg_no_cuda("no working CUDA compiler (nvcc) was found (CUDACXX is '$ENV{CUDACXX}')"
    "Install the CUDA toolkit 12.1 or later, or name its compiler: CUDACXX=/usr/local/cuda/bin/nvcc")
endif()

# Whether nvcc sees a GPU to build for; without one, its "native" means another architecture.
function(edgeseg_cuda_sees_gpu result)
  execute_process(COMMAND "${CMAKE_CUDA_COMPILER}" -arch=native --dryrun -c -x cu /dev/null
    OUTPUT_VARIABLE said ERROR_VARIABLE said RESULT_VARIABLE failed)
  if(failed OR said MATCHES "Cannot find valid GPU")
    set(${result} FALSE PARENT_SCOPE)
  else()
    set(${result} TRUE PARENT_SCOPE)
  endif()
endfunction()

# Orin (87), Hopper (90) and Thor (110), as far as this nvcc knows them, and PTX of the oldest of
# them, which drivers compile for every later device. A Jetson builds for itself, unless its GPU is
# hidden, as from a container's build.
set(architectures "${EDGESEG_CUDA_ARCHITECTURES}")
if(architectures STREQUAL "")
  if(CMAKE_SYSTEM_PROCESSOR STREQUAL "aarch64" AND EXISTS "/etc/nv_tegra_release")
    edgeseg_cuda_sees_gpu(visible)
    if(visible)
      set(architectures native)
    endif()
  endif()
  if(architectures STREQUAL "")
    execute_process(COMMAND "${CMAKE_CUDA_COMPILER}" --list-gpu-code
      OUTPUT_VARIABLE offered ERROR_QUIET)
    foreach(number 87 90 110)
      if(offered MATCHES "sm_${number}[^0-9]")
        list(APPEND architectures "${number}-real")
      endif()
    endforeach()
    if(NOT architectures)
      edgeseg_no_cuda("${CMAKE_CUDA_COMPILER} offers none of sm_87, sm_90 and sm_110"
        "Name others, as in -DEDGESEG_CUDA_ARCHITECTURES=86")
    endif()
    list(GET architectures 0 oldest)
    string(REPLACE "-real" "-virtual" oldest "${oldest}")
    list(APPEND architectures "${oldest}")
  endif()
elseif(architectures STREQUAL "native")
  edgeseg_cuda_sees_gpu(visible)
  if(NOT visible)
    message(FATAL_ERROR "EDGESEG_CUDA_ARCHITECTURES=native, but ${CMAKE_CUDA_COMPILER} sees no GPU: "
      "name the architecture, as in -DEDGESEG_CUDA_ARCHITECTURES=87 for an Orin")
  endif()
endif()

# nvcc's own "native" serves every CMake from 3.22 on.
if(architectures STREQUAL "native")
  set(CMAKE_CUDA_ARCHITECTURES OFF)
else()
  set(CMAKE_CUDA_ARCHITECTURES "${architectures}")
endif()
enable_language(CUDA)
if(CMAKE_CUDA_COMPILER_VERSION VERSION_LESS 12.1)
  edgeseg_no_cuda("CUDA ${CMAKE_CUDA_COMPILER_VERSION} is too old" "Install the toolkit 12.1 or later")
endif()
message(STATUS "edgeseg: CUDA kernels for ${architectures}, by ${CMAKE_CUDA_COMPILER} "
  "${CMAKE_CUDA_COMPILER_VERSION} (EDGESEG_CUDA=${EDGESEG_CUDA})")

string(REPLACE ";" " " architecture_names "${architectures}")
add_library(edgeseg_cuda SHARED
  "${KERNELS}/cuda/abi.cu" "${KERNELS}/cuda/blend.cu" "${KERNELS}/cuda/decide.cu" "${KERNELS}/cuda/fuse.cu"
  "${KERNELS}/cuda/resize.cu" "${KERNELS}/cuda/smooth.cu")
target_include_directories(edgeseg_cuda PRIVATE
  "${KERNELS}/include" "${KERNELS}/src" "${KERNELS}/cuda")
target_compile_definitions(edgeseg_cuda PRIVATE
  "EDGESEG_VERSION=\"${EDGESEG_VERSION}\"" "EDGESEG_CUDA_ARCHITECTURES=\"${architecture_names}\"")
# -prec-div=false: divisions of the device are off by at most 2 units in the last place, and without
# the branches that exact ones need; divisors are nowhere near 2^126, where it would not do.
# -ffp-contract=off: the host makes the tables of the resize, whose weights must round as Pillow's.
target_compile_options(edgeseg_cuda PRIVATE
  -prec-div=false "SHELL:-Xcompiler -Wall,-Wextra,-ffp-contract=off"
  $<$<STREQUAL:${architectures},native>:-arch=native>
  $<$<BOOL:${EDGESEG_WERROR}>:--Werror=all-warnings>)
set_target_properties(edgeseg_cuda PROPERTIES
  CUDA_STANDARD 17 CUDA_STANDARD_REQUIRED ON CUDA_EXTENSIONS OFF
  CUDA_VISIBILITY_PRESET hidden CUDA_RUNTIME_LIBRARY Static)
if(UNIX AND NOT APPLE)
  target_link_options(edgeseg_cuda PRIVATE "LINKER:--version-script=${KERNELS}/src/exports.map")
  set_target_properties(edgeseg_cuda PROPERTIES LINK_DEPENDS "${KERNELS}/src/exports.map")
endif()
install(TARGETS edgeseg_cuda LIBRARY DESTINATION edgeseg/_native RUNTIME DESTINATION edgeseg/_native)
